"""Metrics that every process of a service has: its calls, its event loop, what the operating system says of it."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.metrics_core import Metric as Family
from prometheus_client.process_collector import ProcessCollector

from handclasp.serving.call_figures import CallFigures
from handclasp.transport.loop_lag import LoopLag
from handclasp.transport.metric import Source, counter, gauge, histogram

CALLS = counter(
    "handclasp_calls", "gRPC calls that have ended, by how. OK has no reason.", ("method", "code", "reason")
)
CALL_SECONDS = histogram(
    "handclasp_call_seconds",
    "From a call's headers to the end of its handler; of streams, all their life.",
    ("method",),
)
LOOP_LAG = histogram("handclasp_event_loop_lag_seconds", "How late the event loop is, looked at four times a second.")

_OF_THE_SYSTEM = (
    gauge("process_virtual_memory_bytes", "Virtual memory."),
    gauge("process_resident_memory_bytes", "Memory in use."),
    gauge("process_start_time_seconds", "When the process started, since 1970.", across=max),
    counter("process_cpu_seconds", "Time of the processor."),
    gauge("process_open_fds", "Open file descriptors.", across=max),
    gauge("process_max_fds", "How many file descriptors may be open.", across=min),
)

PROCESS_METRICS = (CALLS, CALL_SECONDS, LOOP_LAG, *_OF_THE_SYSTEM)


def process_source(calls: CallFigures, lag: LoopLag) -> Source:
    """Tells `PROCESS_METRICS`."""
    known = {metric.sample: metric for metric in _OF_THE_SYSTEM}
    system = ProcessCollector(registry=None)

    def tell() -> Iterable[Family]:
        yield CALLS.family(
            ((method.removeprefix("/"), code, reason), count) for (method, code, reason), count in calls.ended.items()
        )
        yield CALL_SECONDS.family(((method.removeprefix("/"),), seconds) for method, seconds in calls.seconds.items())
        yield LOOP_LAG.of(lag.seconds)
        for family in system.collect():
            for sample in family.samples:
                if sample.name in known:
                    yield known[sample.name].of(sample.value)

    return tell
