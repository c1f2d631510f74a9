"""`python -m tests.support.small_worker`: a worker of no service, that does as its settings say."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

from handclasp.transport.lifecycle import StopRequests
from handclasp.transport.logs import LogSettings
from handclasp.transport.process import write_ready_file
from handclasp.transport.worker import read_worker


@dataclass(frozen=True)
class SmallSettings:
    """What a test wants of a worker.

    Args:
        told: each start adds a line.
        fails: ends before it is ready.
        ignores_stop: goes on after the first request.
    """

    told: Path
    ready_file: Path
    fails: bool = False
    ignores_stop: bool = False
    log: LogSettings = field(default_factory=LogSettings)


async def run() -> None:
    worker = read_worker()
    settings = worker.settings
    assert isinstance(settings, SmallSettings)
    stop = StopRequests()
    with stop.on_signals():
        with settings.told.open("a") as told:
            told.write(json.dumps([worker.number, worker.secret.hex()]) + "\n")
        if settings.fails:
            sys.exit(1)
        write_ready_file(settings.ready_file, {"health_port": 9})
        await (stop.wait_at_once() if settings.ignores_stop else stop.wait())


if __name__ == "__main__":
    # Its settings are to be of this module's class by its name, as they are in the parent.
    from tests.support import small_worker  # noqa: PLW0406

    asyncio.run(small_worker.run())
