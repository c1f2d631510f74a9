"""Logs refusals so that nobody can fill the log with them: equal ones within a while are one line, with a count.

The first of its kind is logged at once; those that follow within the window are counted, and their number is logged
when it ends. Past a peer's share of different ones, and past the limit of all, they are counted by reason only. So the
number of lines is bounded by the limits, however many calls are refused, and each refusal is in one of them.
"""

from __future__ import annotations

import asyncio
import atexit
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, TypeAlias

import structlog
from pydantic import Field

_LOG = structlog.stdlib.get_logger(__name__)

Fields: TypeAlias = Mapping[str, str]
_Key: TypeAlias = tuple[str, tuple[tuple[str, str], ...]]


Observer: TypeAlias = Callable[[str, Fields, Fields, int], None]
"""Takes the event, what makes it another one, what the line has besides, and how many there were."""

_OF_CALLERS = frozenset({"UNAUTHENTICATED", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED"})


def is_refused_call(event: str, fields: Fields, more: Fields) -> bool:
    """Whether that is a call that was refused for who called, or how much, before anything was decided about it.
    Arguments as of `Observer`; what was decided about is on record as a decision."""
    return event == "refused" and fields.get("status") in _OF_CALLERS and "decision" not in more


@dataclass(frozen=True, slots=True)
class RefusalLimits:
    """How refusals are logged.

    Attributes:
        window: for how many seconds equal refusals are counted in one line.
        different: how many different ones are told apart at once; further ones are counted by reason.
        different_per_peer: how many of one address; further ones are counted by address and reason.
    """

    window: Annotated[float, Field(gt=0, le=86400, allow_inf_nan=False)] = 60.0
    different: Annotated[int, Field(ge=1)] = 200
    different_per_peer: Annotated[int, Field(ge=1)] = 20


@dataclass(slots=True)
class _Open:
    peer: str
    began: float
    uncounted: int = 0
    more: dict[str, str] = field(default_factory=dict)


class RefusalLog:
    """Logs refusals, each kind once in a window. For one thread; `close` logs what is still to be said.

    Args:
        clock: seconds, monotonic.
        write: takes the event and its fields; the log if not given.
    """

    def __init__(
        self,
        limits: RefusalLimits | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        write: Callable[..., Any] | None = None,
    ) -> None:
        self._limits = limits or RefusalLimits()
        self._clock = clock
        self._write = write
        self._observers: list[Observer] = []
        self._open: dict[_Key, _Open] = {}
        self._shares: Counter[str] = Counter()
        # What is logged is of the past: not of the call that is being handled just now.
        self._context = copy_context()
        self._timer: tuple[asyncio.AbstractEventLoop, asyncio.TimerHandle] | None = None

    def set_limits(self, limits: RefusalLimits) -> None:
        """Has it keep to others from now on."""
        self._limits = limits
        self._context = copy_context()

    def record(self, event: str, fields: Fields, more: Fields | None = None, *, count: int = 1) -> None:
        """Logs a refusal, or counts it.

        Args:
            event: the line's.
            fields: what makes it another one; with `reason`, and `peer` for the address if it is known. Empty values
                are left out.
            more: what the line is to have besides: of the first one, or of the last one with a count.
            count: how many there were.
        """
        for observer in self._observers:
            observer(event, fields, more or {}, count)
        now = self._clock()
        self._end_windows(now)
        exact = {name: value for name, value in fields.items() if value}
        kept = self._as_told_apart(event, exact)
        key = (event, tuple(kept.items()))
        known = self._open.get(key)
        if known is None:
            peer = kept.get("peer", "")
            self._open[key] = known = _Open(peer, now)
            self._shares[peer] += 1
            if kept == exact:
                self._log(event, {**kept, **(more or {}), **({"count": count} if count > 1 else {})})
                count = 0
        known.uncounted += count
        known.more = dict(more or {}) if kept == exact else {}
        self._wait()

    @contextmanager
    def observed_by(self, observer: Observer) -> Iterator[None]:
        """Within, each refusal is told to an observer too, whether or not it is a line of its own."""
        self._observers.append(observer)
        try:
            yield
        finally:
            self._observers.remove(observer)

    def close(self) -> None:
        """Logs what was counted and not logged yet."""
        if self._timer is not None:
            self._timer[1].cancel()
            self._timer = None
        self._end_windows(None)

    def _log(self, event: str, fields: Mapping[str, str | int]) -> None:
        # The logger's method is looked up each time: it is another one once logging is set up.
        write = self._write or _LOG.info
        self._context.copy().run(partial(write, event, **fields))

    def _as_told_apart(self, event: str, fields: dict[str, str]) -> dict[str, str]:
        """The fields, as far as there is room for: by peer and reason, or by reason only."""
        peer, reason = fields.get("peer", ""), fields.get("reason", "")
        if (event, tuple(fields.items())) in self._open:
            return fields
        by_peer = {"reason": reason, "peer": peer, "others": "of this peer"}
        room = len(self._open) < self._limits.different
        if room and (not peer or self._shares[peer] < self._limits.different_per_peer):
            return fields
        if peer and (room or (event, tuple(by_peer.items())) in self._open):
            return by_peer
        return {"reason": reason, "others": "of any peers"}

    def _end_windows(self, now: float | None) -> None:
        """Logs the counts of the windows that are over; of all if `now` is None."""
        over = [key for key, one in self._open.items() if now is None or now - one.began >= self._limits.window]
        for key in over:
            one = self._open[key]
            if one.uncounted:
                self._log(key[0], {**dict(key[1]), **one.more, "count": one.uncounted})
            if one.uncounted and now is not None:
                # It goes on: the next line is at the end of the next window, and no sooner.
                one.began, one.uncounted = now, 0
            else:
                del self._open[key]
                self._shares[one.peer] -= 1
        if over:
            self._shares = +self._shares

    def _wait(self) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            # The next refusal, or the end, does it.
            return
        # One of a loop that has ended never comes.
        if self._open and (self._timer is None or self._timer[0] is not loop):
            self._timer = loop, loop.call_later(self._limits.window / 4, self._look)

    def _look(self) -> None:
        self._timer = None
        self._end_windows(self._clock())
        self._wait()


_process = RefusalLog()


def refusal_log() -> RefusalLog:
    """That of this process, which has one log."""
    return _process


def set_up_refusal_log(limits: RefusalLimits) -> RefusalLog:
    """Sets the limits of this process's, and returns it."""
    _process.set_limits(limits)
    return _process


atexit.register(_process.close)
