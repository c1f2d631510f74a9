"""Repeats a call whose answer was lost, where repeating it is safe."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from handclasp.errors import Reason, Unavailable

Answer = TypeVar("Answer")

DELAYS = (0.3, 1.0, 2.0, 4.0)  # seconds before the second to fifth attempt
_NOTHING_WAS_SENT = (Reason.SERVER_UNREACHABLE, Reason.HANDSHAKE_REFUSED)


async def repeat_if_lost(call: Callable[[], Awaitable[Answer]], delays: tuple[float, ...] = DELAYS) -> Answer:
    """Makes a call, and again if it was sent and its answer was lost (a restart of the server, for example).

    Only for calls that do the same when repeated: reads, and those with a `request_id`. If the very first attempt does
    not reach the server, that is raised at once: nothing is lost, and somebody should look at the address.

    Raises:
        HandclaspError: what the last attempt raised.
    """
    lost = False
    for delay in delays:
        try:
            return await call()
        except Unavailable as error:
            if not lost and error.reason in _NOTHING_WAS_SENT:
                raise
            lost = True
            wait = delay if error.retry_after is None else max(delay, error.retry_after.total_seconds())
        await asyncio.sleep(wait)
    return await call()
