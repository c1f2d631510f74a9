"""The benchmark's arithmetic: from bursts of calls to figures with a goal."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Burst:
    """What came of calling one method for a while, or of doing one thing over and over.

    Attributes:
        seconds: from the first call's begin to the last one's end.
        latencies: of each call, in seconds.
        sample: one of the answers, for whoever wants to see that it is the right one.
    """

    calls: int
    seconds: float
    latencies: Sequence[float] = field(default=(), repr=False)
    sample: bytes = field(default=b"", repr=False)

    @property
    def rate(self) -> float:
        """Calls a second."""
        return self.calls / self.seconds


@dataclass(frozen=True, slots=True)
class Waits:
    """How long each of many alike things took, in seconds."""

    seconds: Sequence[float] = field(repr=False)

    def percentile(self, percent: int) -> float:
        """What so many in a hundred stayed within, in seconds."""
        return statistics.quantiles(self.seconds, n=100, method="inclusive")[percent - 1]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Bursts of a thing that is measured, and beside each a burst of what it is compared with."""

    measured: Sequence[Burst]
    beside: Sequence[Burst]

    @property
    def rate(self) -> float:
        """Calls a second, the median of all rounds."""
        return statistics.median(burst.rate for burst in self.measured)

    @property
    def ratio(self) -> float:
        """Of both rates: the median of all rounds, since other load on the machine comes and goes."""
        rounds = zip(self.measured, self.beside, strict=True)
        return statistics.median(measured.rate / beside.rate for measured, beside in rounds)

    def latency(self, percent: int) -> float:
        """A percentile of the time that a call took, in seconds."""
        return Waits([latency for burst in self.measured for latency in burst.latencies]).percentile(percent)


def growth(smallest: Comparison, now: Comparison) -> float:
    """How many times longer a call takes than it did, both times counted in what they are compared with."""
    return smallest.ratio / now.ratio


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound on a figure. It is reported, and never makes a run fail."""

    at_least: float | None = None
    at_most: float | None = None

    def reached(self, figure: float) -> bool:
        above = self.at_least is None or figure >= self.at_least
        return above and (self.at_most is None or figure <= self.at_most)
