"""How the calls of a server end when it is stopped: each with its answer, or with a status that says what became of it.

gRPC itself ends what is left with CANCELLED, or by closing the connection under it, and neither says whether the call
was carried out. So nothing is left to gRPC: by the time the server stops, every call has ended here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from handclasp.errors import HandclaspError, Reason, Unavailable
from handclasp.serving.call import ABORT_TIMEOUT, Call
from handclasp.serving.call_budgets import CallBudgets, CallKind, OpenCall


class Draining:
    """The calls of one server from the moment it is to stop.

    Args:
        budgets: of the server; know the answers that are on their way.
        refused: told of each call that is ended from here, for the log.

    Attributes:
        refusing: every new call is to be refused with `stopping()`.
    """

    def __init__(self, budgets: CallBudgets, refused: Callable[[Call, HandclaspError], None]) -> None:
        self.refusing = False
        self._budgets = budgets
        self._refused = refused
        self._open: set[OpenCall] = set()
        self._one_ended = asyncio.Event()
        self._hurrying = asyncio.Event()

    def add(self, opened: OpenCall) -> None:
        """The headers of a call have arrived."""
        self._open.add(opened)

    def discard(self, opened: OpenCall) -> None:
        """The handler of a call has ended."""
        self._open.discard(opened)
        self._one_ended.set()

    async def hold_back(self, seconds: float) -> None:
        """Returns after that time; at once when the server is about to stop: what is held back is to be said before."""
        try:
            async with asyncio.timeout(seconds):
                await self._hurrying.wait()
        except TimeoutError:
            pass

    def refuse_all(self) -> None:
        """Has every call that comes from now on be refused with SERVER_STOPPING, which says that nothing was done."""
        self.refusing = True

    async def drain(self) -> None:
        """Returns when all that runs has ended. What does not run yet, or would never end, is ended first."""
        await self._end([opened for opened in self._open if not _has_begun(opened)])
        while any(_has_begun(opened) for opened in self._open):
            self._one_ended.clear()
            await self._one_ended.wait()
        self._hurrying.set()
        if answers := self._budgets.leaving():
            await asyncio.wait(answers)

    async def end_all(self) -> None:
        """Ends whatever is left. Returns when that has been said, or a client does not take it in."""
        self._hurrying.set()
        await self._end(list(self._open))
        if answers := self._budgets.leaving():
            await asyncio.wait(answers, timeout=ABORT_TIMEOUT)

    async def _end(self, calls: list[OpenCall]) -> None:
        ending = []
        for opened in calls:
            call = opened.call
            if not call.finished and not call.ended:
                error = interrupted() if _has_begun(opened) else stopping()
                self._refused(call, error)
                ending.append(call.end(error))
        await asyncio.gather(*ending)


def stopping() -> Unavailable:
    """What a call is told that comes too late."""
    return Unavailable(
        Reason.SERVER_STOPPING,
        "this server is being stopped, and did nothing; call another one, or this one again in a moment",
    )


def interrupted() -> Unavailable:
    """What a call is told that did not end in time."""
    return Unavailable(
        Reason.CALL_INTERRUPTED,
        "this server was stopped while the call ran, so that a part of it may have been carried out; look before you"
        " repeat it",
    )


def _has_begun(opened: OpenCall) -> bool:
    """Whether its handler may have done something that is worth to be waited for."""
    return opened.kind is not None and opened.kind is not CallKind.OBSERVING
