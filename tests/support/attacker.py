"""An attack as a process of its own, so that neither the test nor the bystanders share its event loop.

    async def flood(counts: Counts, target: Target) -> None:
        while True:
            ...
            counts["opened"] += 1

    with attacking(flood, target) as attack:
        ...
    assert attack.counts["opened"] > 100        # else it was no attack

An attack has `LONGEST_SECONDS`, and its process yields the processor to others: an attacker has a machine of its own.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import resource
import time
import traceback
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, TypeAlias

Counts: TypeAlias = Counter[str]
Attack: TypeAlias = Callable[..., Coroutine[Any, Any, None]]

LONGEST_SECONDS = 120.0
_BEGIN_SECONDS = 60.0
_END_SECONDS = 15.0
_NICENESS = 5

_spawning = multiprocessing.get_context("spawn")


class Pace:
    """Holds a flood to a rate, because attacker, services and bystanders share the test's machine.

    At full speed a flood takes all of a small machine's time for itself, and then even a service that it does not touch
    is slow.

    Args:
        rate: how many things may be done in a second.
    """

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._began = time.monotonic()
        self._done = 0

    async def after(self, done: int) -> None:
        """Waits, after that many things more were done, until the next may be."""
        self._done += done
        await asyncio.sleep(max(0.0, self._began + self._done / self._rate - time.monotonic()))


class AttackFailedError(AssertionError):
    """The attack ended with an error of its own: nothing was tried."""


@dataclass
class RunningAttack:
    """What is known of an attack. `counts` is what it counted, once it has ended."""

    counts: Counts = field(default_factory=Counter)


@contextmanager
def attacking(attack: Attack, *arguments: object) -> Iterator[RunningAttack]:
    """Within, an attack is under way: it has begun, and is cancelled at the end.

    Args:
        attack: an async function of a module. It is given counts of its own to fill in, and then the arguments, all of
            which can be pickled. It may end by itself.
    """
    ours, theirs = _spawning.Pipe()
    process = _spawning.Process(target=_run, args=(theirs, attack, arguments), daemon=True)
    process.start()
    theirs.close()
    running = RunningAttack()
    try:
        _receive(ours, _BEGIN_SECONDS)
        yield running
        with suppress(OSError):
            ours.send("enough")
        running.counts.update(_receive(ours, _END_SECONDS))
        print(f"{attack.__name__}: {dict(running.counts)}")
    finally:
        ours.close()
        process.join(_END_SECONDS)
        if process.is_alive():
            process.kill()
            process.join()


def _receive(connection: Connection, timeout: float) -> Counts:
    """What the process says next: nothing at its beginning, its counts at its end."""
    try:
        said = connection.recv() if connection.poll(timeout) else f"nothing within {timeout:.0f} s"
    except EOFError:
        said = "its process ended without a word"
    if isinstance(said, str):
        raise AttackFailedError(said)
    assert isinstance(said, Counter)
    return said


def _run(connection: Connection, attack: Attack, arguments: tuple[object, ...]) -> None:
    os.nice(_NICENESS)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asyncio.run(_attack(connection, attack, arguments))


async def _attack(connection: Connection, attack: Attack, arguments: tuple[object, ...]) -> None:
    counts: Counts = Counter()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _loop, _context: None)  # thousands of lost connections are no news
    connection.send(counts)
    under_way = asyncio.ensure_future(attack(counts, *arguments))
    ordered = loop.create_future()

    def stop() -> None:
        loop.remove_reader(connection.fileno())
        under_way.cancel()
        ordered.set_result(None)

    loop.add_reader(connection.fileno(), stop)
    said: Counts | str = counts
    try:
        await asyncio.wait([under_way], timeout=LONGEST_SECONDS)
        under_way.cancel()
        await asyncio.wait([under_way], timeout=_END_SECONDS / 3)
        if under_way.done() and not under_way.cancelled() and under_way.exception() is not None:
            said = "".join(traceback.format_exception(under_way.exception()))
        await asyncio.wait([ordered], timeout=LONGEST_SECONDS)
    finally:
        with suppress(OSError):
            connection.send(said)
