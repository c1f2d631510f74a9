"""The pair that is measured, as the processes that `handclasp up` starts."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

SERVICES = ("certificates", "executions")

_START_SECONDS = 60.0
_STOP_SECONDS = 30.0


class ServicesError(Exception):
    """The services did not start or stop; the text says what they said."""


@dataclass(frozen=True, slots=True)
class RunningServices:
    """Both services.

    Attributes:
        addresses: `certificates_mtls` and `executions`, each `host:port`.
        processes: each service's own.
    """

    addresses: Mapping[str, str]
    ca_file: Path
    context_file: Path
    processes: Mapping[str, psutil.Process]

    def resident_memory(self, service: str) -> int:
        """In bytes, shared pages included."""
        return int(self.processes[service].memory_info().rss)


@asynccontextmanager
async def running_services(
    folder: Path, database_url: str | None, *, integrations: Path | None = None
) -> AsyncIterator[RunningServices]:
    """Both services with their data in a folder; the same one again is a restart.

    Args:
        database_url: None for SQLite in that folder.
        integrations: a folder with more integrations than those that are installed.

    Raises:
        ServicesError
    """
    data, ready, said = folder / "data", folder / "ready.json", folder / "said.log"
    command = [str(Path(sys.executable).with_name("handclasp")), "up", "--free-ports"]
    environment = dict(os.environ)
    if database_url is not None:
        environment["HANDCLASP_CERTIFICATES_DATABASE_URL"] = database_url
    if integrations is not None:
        environment["HANDCLASP_EXECUTIONS_INTEGRATIONS_FOLDER"] = str(integrations)
    with said.open("ab") as output:
        process = subprocess.Popen(  # noqa: ASYNC220 - it does not wait
            [*command, "--data-dir", str(data), "--ready-file", str(ready)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        await _until_ready(process, ready, said)
        found = json.loads(ready.read_text())
        yield RunningServices(
            addresses=found,
            ca_file=Path(found["ca_file"]),
            context_file=Path(found["context_file"]),
            processes={
                name: psutil.Process(json.loads((data / f".{name}-ready.json").read_text())["process_id"])
                for name in SERVICES
            },
        )
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            await asyncio.to_thread(process.wait, _STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            raise ServicesError(f"the services did not stop within {_STOP_SECONDS:.0f} s") from None


async def _until_ready(process: subprocess.Popen[bytes], ready: Path, said: Path) -> None:
    try:
        async with asyncio.timeout(_START_SECONDS):
            while not ready.exists():  # noqa: ASYNC240 - another process makes it
                if process.poll() is not None:
                    raise ServicesError(f"`handclasp up` ended: {_end_of(said)}")
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise ServicesError(f"the services were not ready within {_START_SECONDS:.0f} s") from None


def _end_of(said: Path) -> str:
    return said.read_text(errors="replace")[-1000:]
