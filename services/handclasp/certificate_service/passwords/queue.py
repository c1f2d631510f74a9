"""Whose password is hashed next, while more wait than can be hashed at once.

Fair over sources, and not over attempts: a source is an address (of IPv6 a /64), or a relying party with all its
peers. The one whose attempts were wrong least often lately comes first, and of equal ones those that sent a right one
before; others take turns. So whoever sends wrong passwords waits behind whoever sends right ones, from however many
addresses they come.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta

from handclasp.certificate_service.passwords.guesses import Source
from handclasp.errors import Reason, ResourceExhausted

_BUSY_RETRY = timedelta(seconds=1)

# Seconds in which half of what a source has had is forgotten.
_HALF_LIFE = 30.0
# A source that has had less than this lately is as good as new.
_CLEAN = 0.5
# So many wrong ones are forgiven a source that sent a right one before: people mistype.
_FORGIVEN = 3
# Sources that are remembered without any attempt of theirs.
_REMEMBERED = 10_000
# A relying party is one source for many peers, each of whom may have as much waiting as an address.
_PEERS_OF_A_RELYING_PARTY = 8


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """What may be hashed, and wait for it.

    Attributes:
        at_once: hashes that are computed at once.
        waiting: attempts that may wait, of all.
        waiting_per_address: those of one address, with those that are being computed; of a relying party, eight times
            as many.
    """

    at_once: int = 2
    waiting: int = 1000
    waiting_per_address: int = 16


@dataclass(slots=True, eq=False)
class _Line:
    """The attempts of one source.

    Attributes:
        had: hashes that were computed for wrong passwords of it, each halved every half-life.
        counted_at: when that was so.
        good: whether a right password came from it before.
        turn: the number of the turn that it had last.
        running: how many of its turns are had just now.
    """

    had: float = 0.0
    counted_at: float = 0.0
    good: bool = False
    turn: int = 0
    running: int = 0
    waiting: deque[Turn] = field(default_factory=deque)

    def wrong_lately(self, now: float) -> float:
        """How many count against it."""
        return max(0.0, self._had_lately(now) - (_FORGIVEN if self.good else 0))

    def charge(self, now: float) -> None:
        self.had = self._had_lately(now) + 1
        self.counted_at = now

    def _had_lately(self, now: float) -> float:
        return self.had * math.exp2(-max(0.0, now - self.counted_at) / _HALF_LIFE)


@dataclass(slots=True, eq=False)
class Turn:
    """A hash that may be computed now, or will be.

    Attributes:
        called: done once it may be computed; an error if somebody else was preferred.
        suspect: whether its source had sent wrong passwords lately when it was called.
        right: whether a password was right, or wrong, which counts against its source; None if neither.
    """

    line: _Line
    called: asyncio.Future[None]
    suspect: bool = False
    right: bool | None = None


class PasswordQueue:
    """Hands out turns. One place is kept free of those who sent wrong passwords lately, if there are several.

    Args:
        clock: seconds on a clock that nobody sets.
    """

    def __init__(self, limits: QueueLimits, clock: Callable[[], float]) -> None:
        self._limits = limits
        self._clock = clock
        # By source; those used last are at the end.
        self._lines: OrderedDict[Source, _Line] = OrderedDict()
        # Those in which somebody waits, in the order in which they began to; a set that knows it.
        self._waiting: dict[_Line, None] = {}
        self._number_waiting = 0
        self._running = 0
        self._suspects_running = 0
        self._suspects_at_once = max(1, limits.at_once - 1)
        self._numbers = itertools.count(1)

    @asynccontextmanager
    async def turn(self, source: Source) -> AsyncIterator[Turn]:
        """Waits for a turn, and holds it within. Whoever is cancelled while waiting has had none.

        Raises:
            ResourceExhausted: PASSWORD_CHECKS_BUSY, too many wait already.
        """
        turn = self._line_up(source)
        self._call()
        try:
            await turn.called
        except BaseException:
            if turn.called.done() and not turn.called.cancelled() and turn.called.exception() is None:
                self._over(turn)  # called in the moment in which its holder was cancelled
            else:
                self._remove(turn)
            raise
        try:
            yield turn
        finally:
            self._over(turn)

    def _line_up(self, source: Source) -> Turn:
        line = self._line_of(source)
        most = self._limits.waiting_per_address * (_PEERS_OF_A_RELYING_PARTY if source.relying_party else 1)
        if len(line.waiting) + line.running >= most:
            raise _busy("too many passwords from this address are being checked")
        if self._number_waiting >= self._limits.waiting:
            self._make_room_for(line)
        turn = Turn(line, asyncio.get_running_loop().create_future())
        line.waiting.append(turn)
        self._waiting[line] = None
        self._number_waiting += 1
        return turn

    def _make_room_for(self, line: _Line) -> None:
        now = self._clock()

        def takes(other: _Line) -> tuple[int, int]:
            return round(other.wrong_lately(now)), len(other.waiting)

        greediest = max(self._waiting, key=takes)
        if takes(greediest) <= takes(line):
            raise _busy("too many passwords are being checked")
        last = greediest.waiting[-1]
        self._remove(last)
        last.called.set_exception(_busy("too many passwords are being checked"))

    def _call(self) -> None:
        """Begins as many turns as there are places."""
        while self._running < self._limits.at_once:
            now = self._clock()
            line = self._next(now)
            if line is None:
                return
            turn = line.waiting[0]
            self._remove(turn)
            turn.suspect = line.wrong_lately(now) >= _CLEAN
            line.turn = next(self._numbers)
            self._running += 1
            line.running += 1
            self._suspects_running += turn.suspect
            turn.called.set_result(None)

    def _next(self, now: float) -> _Line | None:
        best: tuple[int, bool, int] | None = None
        found: _Line | None = None
        for line in self._waiting:
            wrong = line.wrong_lately(now)
            if wrong >= _CLEAN and self._suspects_running >= self._suspects_at_once:
                continue
            # Nothing is known yet of those that are being computed; of a source that is new, they count as wrong.
            rank = round(wrong) + (0 if line.good else line.running), not line.good, line.turn
            if best is None or rank < best:
                best, found = rank, line
        return found

    def _over(self, turn: Turn) -> None:
        if turn.right:
            turn.line.good = True
        elif turn.right is not None:
            turn.line.charge(self._clock())
        self._running -= 1
        turn.line.running -= 1
        self._suspects_running -= turn.suspect
        self._call()

    def _remove(self, turn: Turn) -> None:
        if turn not in turn.line.waiting:
            return
        turn.line.waiting.remove(turn)
        self._number_waiting -= 1
        if not turn.line.waiting:
            del self._waiting[turn.line]

    def _line_of(self, source: Source) -> _Line:
        key = Source("", source.relying_party) if source.relying_party else source
        line = self._lines.setdefault(key, _Line())
        self._lines.move_to_end(key)
        while len(self._lines) > _REMEMBERED:
            self._lines.popitem(last=False)
        return line


def _busy(fault: str) -> ResourceExhausted:
    return ResourceExhausted(
        Reason.PASSWORD_CHECKS_BUSY,
        f"{fault}; try again in a moment, or use a certificate",
        retry_after=_BUSY_RETRY,
    )
