"""The metrics of a service of several processes: the workers' own, taken together by their parent."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from prometheus_client.metrics_core import Metric as Family
from prometheus_client.parser import text_string_to_metric_families

from handclasp.transport.metric import Kind, Metric, gauge
from handclasp.transport.metrics import as_text
from handclasp.transport.workers import Workers

WORKERS = gauge("handclasp_workers", "Processes that the service is to have; not told by a service of one.")
WORKERS_ANSWERING = gauge("handclasp_workers_answering", "Of those, the ones that answer.")

WORKER_METRICS = (WORKERS, WORKERS_ANSWERING)

_Key: TypeAlias = tuple[str, tuple[tuple[str, str], ...]]
"""The name of a sample, and its labels."""


@dataclass(frozen=True, slots=True)
class _Told:
    """What a worker told last."""

    process_id: int
    values: dict[str, dict[_Key, float]] = field(repr=False)


class WorkerTotals:
    """Takes together what workers tell.

    What a worker counted is still in the sums when it has ended, up to what it told last: counters never go back.

    Args:
        metrics: all that a worker may tell; others are left out.
    """

    def __init__(self, metrics: Sequence[Metric]) -> None:
        self._metrics = {metric.name: metric for metric in metrics}
        self._told: dict[int, _Told] = {}
        self._ended: defaultdict[str, dict[_Key, float]] = defaultdict(dict)

    def take(self, number: int, process_id: int, text: str) -> None:
        """A worker has told this.

        Args:
            number: the worker's.
            process_id: another one than the last time means that the former one has ended.
            text: in Prometheus's text format.
        """
        before = self._told.get(number)
        if before is not None and before.process_id != process_id:
            for name, values in before.values.items():
                if self._metrics[name].kind is not Kind.GAUGE:
                    _add(self._ended[name], values)
        self._told[number] = _Told(process_id, _values(text, self._metrics))

    def families(self, answering: Iterable[int]) -> Iterator[Family]:
        """Everything together.

        Args:
            answering: the numbers of those that have just told; gauges are those of no others.
        """
        now = [self._told[number].values for number in answering if number in self._told]
        for name, metric in self._metrics.items():
            family = Family(name, metric.help, metric.kind.value)
            if metric.kind is Kind.GAUGE:
                found: defaultdict[_Key, list[float]] = defaultdict(list)
                for values in now:
                    for key, value in values.get(name, {}).items():
                        found[key].append(value)
                together: dict[_Key, float] = {key: metric.across(list_) for key, list_ in found.items()}
            else:
                summed: dict[_Key, float] = {}
                _add(summed, self._ended[name])
                for told in self._told.values():
                    _add(summed, told.values.get(name, {}))
                together = summed
            for (sample, labels), value in together.items():
                family.add_sample(sample, dict(labels), value)
            yield family


class WorkerMetrics:
    """`/metrics` of the parent of workers.

    Args:
        metrics: all that a worker may tell.
    """

    def __init__(self, workers: Workers, metrics: Sequence[Metric]) -> None:
        self._workers = workers
        self._totals = WorkerTotals(metrics)

    async def exposition(self) -> bytes:
        """An `Exposition`: each worker is asked, and who does not answer within a moment is left out."""
        told = await self._workers.ask_metrics()
        for number, one in told.items():
            self._totals.take(number, one.process_id, one.text)
            # Each takes some milliseconds to read; whoever waits for something else goes first.
            await asyncio.sleep(0)
        own = (WORKERS.of(self._workers.count), WORKERS_ANSWERING.of(len(told)))
        return as_text([*own, *self._totals.families(told)])


def _values(text: str, metrics: dict[str, Metric]) -> dict[str, dict[_Key, float]]:
    found: dict[str, dict[_Key, float]] = {}
    for family in text_string_to_metric_families(text):
        # The text has the name of a counter with its suffix, the parser without.
        if family.name in metrics:
            found[family.name] = {
                (sample.name, tuple(sample.labels.items())): sample.value for sample in family.samples
            }
    return found


def _add(sums: dict[_Key, float], values: dict[_Key, float]) -> None:
    for key, value in values.items():
        sums[key] = sums.get(key, 0.0) + value
