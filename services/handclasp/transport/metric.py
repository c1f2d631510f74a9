"""What a metric is called and means, and how its values become samples. docs/monitoring.md lists all there are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family

from handclasp.serving.figures import Distribution

Across: TypeAlias = Callable[[Iterable[float]], float]
"""What the workers' values of a gauge are together: `sum`, `max` or `min`. Counters and histograms are summed."""

Source: TypeAlias = Callable[[], Iterable[Family]]
"""Tells the values of some metrics by now. Called in the event loop: it looks at what is in memory, no further."""


class Kind(Enum):
    """As Prometheus names them."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric.

    Attributes:
        name: without the suffixes that samples have, such as `_total`.
        labels: their names. No user, no certificate, no address; and no value that callers can choose.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    across: Across = sum

    @property
    def sample(self) -> str:
        """The name that queries use; of a histogram it is the one without `_bucket`, `_sum` and `_count`."""
        return f"{self.name}_total" if self.kind is Kind.COUNTER else self.name

    def family(self, values: Iterable[tuple[Sequence[str], float | Distribution]]) -> Family:
        """The metric with its values by the values of its labels."""
        if self.kind is Kind.HISTOGRAM:
            histogram = HistogramMetricFamily(self.name, self.help, labels=self.labels)
            for labels, value in values:
                if isinstance(value, Distribution):
                    histogram.add_metric(labels, value.buckets(), value.sum)
            return histogram
        kind = CounterMetricFamily if self.kind is Kind.COUNTER else GaugeMetricFamily
        family = kind(self.name, self.help, labels=self.labels)
        for labels, value in values:
            if not isinstance(value, Distribution):
                family.add_metric(labels, value)
        return family

    def of(self, value: float | Distribution) -> Family:
        """The same of a metric without labels."""
        return self.family([((), value)])


def counter(name: str, text: str, labels: tuple[str, ...] = ()) -> Metric:
    """What only grows."""
    return Metric(name, Kind.COUNTER, text, labels)


def gauge(name: str, text: str, labels: tuple[str, ...] = (), *, across: Across = sum) -> Metric:
    """What is so now."""
    return Metric(name, Kind.GAUGE, text, labels, across)


def histogram(name: str, text: str, labels: tuple[str, ...] = ()) -> Metric:
    """How many there were, by size."""
    return Metric(name, Kind.HISTOGRAM, text, labels)
