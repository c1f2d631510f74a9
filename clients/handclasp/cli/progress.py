"""Says on a terminal that something is going on, while it takes longer than people wait without wondering."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from rich.console import Console
from rich.status import Status

_UNNOTICED_SECONDS = 0.5


@contextlib.asynccontextmanager
async def progress(text: str, console: Console | None = None) -> AsyncIterator[None]:
    """Within, the text stands on the terminal, after a moment. Standard error, so that what is printed stays clean."""
    where = console or Console(stderr=True)
    if not where.is_terminal:
        yield
        return
    status = where.status(text)
    showing = asyncio.create_task(_start(status))
    try:
        yield
    finally:
        showing.cancel()
        status.stop()


async def _start(status: Status) -> None:
    await asyncio.sleep(_UNNOTICED_SECONDS)
    status.start()
