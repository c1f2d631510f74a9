"""Processes beside the measuring one, and how it speaks to them."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

_ANSWER_SECONDS = 90.0
_END_SECONDS = 10.0

_spawning = multiprocessing.get_context("spawn")


class CallFailedError(Exception):
    """A call failed, or was answered with something else than it asked for."""


@contextmanager
def process(target: Callable[[Connection, Any], None], argument: object) -> Iterator[Connection]:
    """A process of its own, and the connection to it. It is to end when that is closed."""
    ours, theirs = _spawning.Pipe()
    process = _spawning.Process(target=target, args=(theirs, argument), daemon=True)
    process.start()
    theirs.close()
    try:
        yield ours
    finally:
        ours.close()
        process.join(_END_SECONDS)
        if process.is_alive():
            process.kill()
            process.join()


async def answer(connection: Connection) -> Any:
    """What the process says next.

    Raises:
        CallFailedError: it says nothing, or has ended.
    """
    if not await asyncio.to_thread(connection.poll, _ANSWER_SECONDS):
        raise CallFailedError(f"no answer within {_ANSWER_SECONDS:.0f} s")
    try:
        return connection.recv()
    except EOFError:
        raise CallFailedError("one of the benchmark's processes ended by itself; what it said is above") from None
