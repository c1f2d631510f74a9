"""What is counted while it happens, cheaply enough for the way of every call."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

CALL_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Bounds for what takes from a part of a millisecond up to a lease or two."""


class Distribution:
    """How many values there were, by size, and their sum.

    Args:
        bounds: ascending; a value is counted below the first bound that it does not exceed.
    """

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float] = CALL_SECONDS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Counts one more."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    @property
    def count(self) -> int:
        """Of all values."""
        return sum(self.counts)

    def buckets(self) -> list[tuple[str, float]]:
        """Each bound, and how many values do not exceed it, as Prometheus has them: the last bound is `+Inf`."""
        names = [*(str(float(bound)) for bound in self.bounds), "+Inf"]
        return [(name, float(below)) for name, below in zip(names, accumulate(self.counts), strict=True)]
