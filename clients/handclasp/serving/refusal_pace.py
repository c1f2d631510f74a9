"""Refusals to a peer come at a pace.

A refusal costs nearly as much as an answer, and who does not mind them can have a thousand in a second. So those
beyond the pace are held back, which costs next to nothing, and a client with many of them open waits.
"""

from __future__ import annotations

import math
from collections import OrderedDict

from handclasp.serving.clock import Clock

_REMEMBERED = 10_000
"""Peers. Whoever is forgotten begins anew."""


class RefusalPace:
    """When refusals may be told.

    Args:
        rate: how many in a second a peer is told; those of two seconds at once at first.
        longest: seconds that one is held back at most.
        clock: monotonic.
    """

    def __init__(self, rate: int, longest: float, clock: Clock) -> None:
        self._interval = 1 / rate
        self._slack = 2.0
        self._longest = longest
        self._clock = clock
        self._due: OrderedDict[str, float] = OrderedDict()  # by peer: when the next one is due; longest unused first

    def delay(self, peer: str | None) -> float:
        """How many seconds the next refusal of a peer is to be held back. Nobody's of an unknown peer is."""
        if peer is None:
            return 0.0
        now = self._clock()
        due = max(self._due.pop(peer, -math.inf), now - self._slack)
        self._due[peer] = min(due + self._interval, now + self._longest)
        if len(self._due) > _REMEMBERED:
            self._due.popitem(last=False)
        return max(0.0, due - now)
