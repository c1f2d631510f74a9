"""Of which calls gRPC takes in the message at a time.

Before a message is asked for, gRPC takes in no more of it than its window; once it is, all of it, up to the longest
that is allowed. So how many are asked for at once bounds the memory that requests take up before they are complete.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from handclasp.serving.call import Call
from handclasp.serving.clock import Clock

_EVICTED_AT_ONCE = 10
_PATIENCE = 0.05
"""Seconds that every message may take, even if others wait for a turn: most come in one piece with the headers."""


@dataclass(slots=True, eq=False)
class _Waiter:
    call: Call
    connection: str
    turn: asyncio.Future[None]


class ReadingTurns:
    """Turns, shared out evenly among connections.

    A connection has only so many at once; its other calls wait for them, and nobody else does. If all turns are taken,
    the connection that has the most of them gives one up: the call that has been at it for longest is ended.

    Args:
        total: how many turns there are.
        per_connection: how many of them one connection may have.
        evict: ends a call, which then gives its turn back.
        clock: monotonic.

    Attributes:
        taken: how many turns are taken.
    """

    def __init__(self, *, total: int, per_connection: int, evict: Callable[[Call], None], clock: Clock) -> None:
        self._total = total
        self._per_connection = per_connection
        self._evict = evict
        self._clock = clock
        self.taken = 0
        self._held: dict[str, dict[Call, float]] = {}  # by connection: since when, the longest first
        self._evicted: set[Call] = set()
        self._behind_own: dict[str, deque[_Waiter]] = {}
        self._behind_all: deque[_Waiter] = deque()
        self._newcomers: deque[_Waiter] = deque()
        """Wait behind all, too, but for connections that have no turn at all: before others."""
        self._claims: dict[str, int] = {}  # by connection: turns that it has, and waiters of it behind all

    def take_at_once(self, call: Call, connection: str) -> bool:
        """Takes a turn if there is one for that connection."""
        claims = self._claims.get(connection, 0)
        if self.taken >= self._total or claims >= self._per_connection:
            return False
        self._claims[connection] = claims + 1
        self._grant(call, connection)
        return True

    async def take(self, call: Call, connection: str) -> None:
        """Takes a turn, once there is one."""
        waiter = _Waiter(call, connection, asyncio.get_running_loop().create_future())
        if self._claims.get(connection, 0) >= self._per_connection:
            self._behind_own.setdefault(connection, deque()).append(waiter)
        else:
            self._wait_behind_all(waiter)
            self.make_room()
        try:
            await waiter.turn
        except asyncio.CancelledError:
            if waiter.turn.done() and not waiter.turn.cancelled():
                self.give_back(call, connection)
            else:
                self._leave(waiter)
            raise

    def give_back(self, call: Call, connection: str) -> None:
        """The message is there, or will not come."""
        held = self._held[connection]
        del held[call]
        if not held:
            del self._held[connection]
        self.taken -= 1
        if self._evicted:
            self._evicted.discard(call)
        self._drop_claim(connection)
        if self._newcomers or self._behind_all:
            self._serve()

    def make_room(self) -> None:
        """Has calls give up their turn for those that wait, as far as that is fair. To be called from time to time."""
        waiting = len(self._newcomers) + len(self._behind_all)
        for _ in range(min(_EVICTED_AT_ONCE, waiting - len(self._evicted))):
            victim = self._victim((self._newcomers or self._behind_all)[0].connection)
            if victim is None:
                return
            self._evicted.add(victim)
            self._evict(victim)

    def _victim(self, waiting: str) -> Call | None:
        """Of the connection with the most turns, if that is more than the waiting one has, the oldest call; else the
        oldest of all, if it had its time."""
        most, largest = len(self._held.get(waiting, ())), None
        for connection, held in self._held.items():
            if len(held) > most:
                most, largest = len(held), connection
        if largest is not None and most > 1:
            return next((call for call in self._held[largest] if call not in self._evicted), None)
        since = {
            call: since for held in self._held.values() for call, since in held.items() if call not in self._evicted
        }
        oldest = min(since, key=since.__getitem__, default=None)
        return None if oldest is None or self._clock() - since[oldest] < _PATIENCE else oldest

    def _wait_behind_all(self, waiter: _Waiter) -> None:
        claims = self._claims.get(waiter.connection, 0)
        self._claims[waiter.connection] = claims + 1
        (self._behind_all if claims else self._newcomers).append(waiter)

    def _drop_claim(self, connection: str) -> None:
        """A claim of a connection has ended; the next call that waits behind its own has one."""
        left = self._claims[connection] - 1
        if left:
            self._claims[connection] = left
        else:
            del self._claims[connection]
        behind = self._behind_own.get(connection)
        if behind is None:
            return
        while behind:
            waiter = behind.popleft()
            if not waiter.turn.cancelled():
                self._wait_behind_all(waiter)
                break
        if not behind:
            del self._behind_own[connection]

    def _leave(self, waiter: _Waiter) -> None:
        """Of those behind their own connection's, who leaves is passed over later: there may be thousands of them."""
        for waiting in (self._newcomers, self._behind_all):
            if waiter in waiting:
                waiting.remove(waiter)
                self._drop_claim(waiter.connection)

    def _serve(self) -> None:
        while (waiting := self._newcomers or self._behind_all) and self.taken < self._total:
            waiter = waiting.popleft()
            if waiter.turn.cancelled():
                self._drop_claim(waiter.connection)
            else:
                self._grant(waiter.call, waiter.connection)
                waiter.turn.set_result(None)

    def _grant(self, call: Call, connection: str) -> None:
        self.taken += 1
        held = self._held.get(connection)
        if held is None:
            held = self._held[connection] = {}
        held[call] = self._clock()
