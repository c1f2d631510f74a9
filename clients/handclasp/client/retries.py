"""Repeats a call whose answer was lost, where repeating it is safe."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from handclasp.errors import DeadlineExceeded, HandclaspError, Internal, Reason, Unavailable

Answer = TypeVar("Answer")

NOTHING_WAS_DONE = (Reason.SERVER_UNREACHABLE, Reason.HANDSHAKE_REFUSED, Reason.SERVER_STOPPING)
DELAYS = (0.3, 1.0, 2.0, 4.0)  # seconds before the second to fifth attempt


async def repeat_if_lost(call: Callable[[], Awaitable[Answer]], delays: tuple[float, ...] = DELAYS) -> Answer:
    """Makes a call, and again if it was sent and its answer was lost (a restart of the server, for example).

    Only for calls that do the same when repeated: reads, and those with a `request_id`. If the very first attempt does
    not reach the server, that is raised at once: nothing is lost, and somebody should look at the address.

    Raises:
        HandclaspError: what the first attempt raised; or, after one whose answer was lost, an `Unavailable` of which
            `may_have_been_done` is true, however sure a later attempt failed.
    """
    lost: Unavailable | None = None
    was_there = False
    for delay in (*delays, None):
        try:
            return await call()
        except HandclaspError as error:
            was_there |= may_have_been_done(error) or error.reason == Reason.SERVER_STOPPING
            if not (was_there and isinstance(error, Unavailable)) or delay is None:
                raise with_doubt(error, lost) from error
            if lost is None and may_have_been_done(error):
                lost = error
            asked = 0.0 if error.retry_after is None else error.retry_after.total_seconds()
        await asyncio.sleep(max(delay, asked))
    raise AssertionError("the last attempt returns or raises")


def may_have_been_done(error: HandclaspError) -> bool:
    """Whether the call may have been carried out although it failed with this."""
    if isinstance(error, Unavailable):
        return error.reason not in NOTHING_WAS_DONE
    return isinstance(error, DeadlineExceeded | Internal)


def with_doubt(error: HandclaspError, lost: HandclaspError | None) -> HandclaspError:
    """What to raise for an error, if an attempt before it was lost and may have been carried out."""
    if lost is None or may_have_been_done(error):
        return error
    return type(lost)(lost.reason, f"{lost.message}; trying again: {error}", metadata=error.metadata)
