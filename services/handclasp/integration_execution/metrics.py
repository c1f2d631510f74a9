"""The metrics of the execution server. docs/monitoring.md says what each means."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.metrics_core import Metric as Family

from handclasp.relying_party import RelyingParty
from handclasp.transport.listener_metrics import LISTENER_METRICS
from handclasp.transport.loop_watchdog import LoopWatchdog
from handclasp.transport.metric import Metric, Source, counter, gauge
from handclasp.transport.process_metrics import PROCESS_METRICS

DECISIONS = counter(
    "handclasp_decisions",
    "Decisions on calls: remembered and used, asked of the certificate service (a batch is one), asked again for having"
    " been overtaken, refused, or not to be had (unanswered).",
    ("how",),
)
CALLS_ABORTED = counter("handclasp_calls_aborted", "Calls that were ended while they ran, for what was taken away.")
REMEMBERED = gauge("handclasp_decisions_kept", "Decisions in memory.")
CALLS_HELD = gauge("handclasp_calls_in_progress", "Calls that rest on a decision and have not ended.")
LEASE = gauge("handclasp_lease_running", "1 while this server may act on what it remembers, else 0.", across=min)
APPLIED = gauge("handclasp_applied_revision", "The revision up to which every change is heeded here.", across=min)

BLOCKS = counter(
    "handclasp_event_loop_blocks",
    "Times that something held up the event loop beyond `blocked_after`, by the integration that did.",
    ("integration",),
)
BLOCKED_SECONDS = counter("handclasp_event_loop_blocked_seconds", "For how long it was held up so, together.")

WATCHDOG_METRICS = (BLOCKS, BLOCKED_SECONDS)
RELYING_PARTY_METRICS = (DECISIONS, CALLS_ABORTED, REMEMBERED, CALLS_HELD, LEASE, APPLIED)

EXECUTION_METRICS: tuple[Metric, ...] = (
    *PROCESS_METRICS,
    *LISTENER_METRICS,
    *RELYING_PARTY_METRICS,
    *WATCHDOG_METRICS,
)
"""All that a process of the server tells."""


def watchdog_source(watchdog: LoopWatchdog) -> Source:
    """Tells `WATCHDOG_METRICS`."""

    def tell() -> Iterable[Family]:
        yield BLOCKS.family(((name,), times) for name, times in watchdog.blocks.items())
        yield BLOCKED_SECONDS.of(watchdog.seconds)

    return tell


def relying_party_source(relying_party: RelyingParty) -> Source:
    """Tells `RELYING_PARTY_METRICS`."""

    def tell() -> Iterable[Family]:
        counters = relying_party.counters
        how = {
            "remembered": counters.hits,
            "asked": counters.asked,
            "asked_again": counters.asked_again,
            "refused": counters.refused,
            "unanswered": counters.unanswered,
        }
        yield DECISIONS.family(((name,), value) for name, value in how.items())
        yield CALLS_ABORTED.of(counters.aborted)
        yield REMEMBERED.of(relying_party.remembered)
        yield CALLS_HELD.of(relying_party.calls_in_progress)
        yield LEASE.of(relying_party.ready)
        yield APPLIED.of(relying_party.revision)

    return tell
