"""Metrics of listeners: what their budgets are used for and refuse, and which handshakes they refuse."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client.metrics_core import Metric as Family

from handclasp.serving.call_budgets import Budget, CallBudgets
from handclasp.serving.refused_handshakes import UNKNOWN, HandshakeReason, HandshakeRefusals
from handclasp.transport.metric import Metric, Source, counter, gauge

RUNNING = gauge("handclasp_calls_running", "Calls that run, of those that are limited.", ("listener",))
RUNNING_MOST = gauge("handclasp_calls_running_most", "How many may run.", ("listener",))
OBSERVING = gauge("handclasp_calls_observing", "Streams of Health.Watch and reflection.", ("listener",))
ARRIVING = gauge("handclasp_calls_arriving", "Calls whose request is not there yet.", ("listener",))
READING = gauge("handclasp_calls_reading", "Of those, the ones whose request is being taken in.", ("listener",))
REQUEST_BYTES = gauge("handclasp_request_bytes", "Of the requests of calls that run.", ("listener",))
OVER_BUDGET = counter("handclasp_calls_over_budget", "Calls refused or ended for a budget.", ("listener", "budget"))
HANDSHAKES_REFUSED = counter(
    "handclasp_handshakes_refused", "TLS handshakes that were refused.", ("listener", "reason")
)

LISTENER_METRICS: tuple[Metric, ...] = (
    RUNNING,
    RUNNING_MOST,
    OBSERVING,
    ARRIVING,
    READING,
    REQUEST_BYTES,
    OVER_BUDGET,
    HANDSHAKES_REFUSED,
)


def listener_source(budgets: Mapping[str, CallBudgets], handshakes: HandshakeRefusals) -> Source:
    """Tells `LISTENER_METRICS`.

    Args:
        budgets: by the name that `handshakes` has for each listener.
    """

    def tell() -> Iterable[Family]:
        yield RUNNING.family(((name,), one.running) for name, one in budgets.items())
        yield RUNNING_MOST.family(((name,), one.limits.running) for name, one in budgets.items())
        yield OBSERVING.family(((name,), one.observing) for name, one in budgets.items())
        yield ARRIVING.family(((name,), one.arriving) for name, one in budgets.items())
        yield READING.family(((name,), one.reading) for name, one in budgets.items())
        yield REQUEST_BYTES.family(((name,), one.request_bytes) for name, one in budgets.items())
        yield OVER_BUDGET.family(
            ((name, budget.value), one.refusals[budget]) for name, one in budgets.items() for budget in Budget
        )
        yield HANDSHAKES_REFUSED.family(_handshakes([*budgets, UNKNOWN], handshakes))

    return tell


def _handshakes(listeners: Iterable[str], handshakes: HandshakeRefusals) -> Iterator[tuple[tuple[str, str], float]]:
    # All from the beginning: a rate does not see the first of what was not there before.
    for listener in listeners:
        for reason in HandshakeReason:
            yield (listener, reason.value), handshakes.counts[listener, reason]
