"""Holds docs/monitoring.md and what the services tell together."""

from __future__ import annotations

import pytest

from handclasp.certificate_service.metrics import CERTIFICATE_METRICS
from handclasp.integration_execution.metrics import EXECUTION_METRICS
from handclasp.transport.listener_metrics import LISTENER_METRICS
from handclasp.transport.metric import Metric
from handclasp.transport.process_metrics import PROCESS_METRICS
from handclasp.transport.worker_metrics import WORKER_METRICS
from tests.support.markdown import ROOT, inline_code, rows, section

PAGE = (ROOT / "docs/monitoring.md").read_text(encoding="utf-8")
BOTH, CERTIFICATES, EXECUTIONS, WORKERS = (
    "Of both services",
    "Of the certificate service",
    "Of the execution server, and of its decisions",
    "Of a service of several workers",
)
ALL = {metric.name: metric for metric in (*CERTIFICATE_METRICS, *EXECUTION_METRICS, *WORKER_METRICS)}
IDENTIFYING = {"user", "certificate", "fingerprint", "address", "peer", "serial", "decision", "revision"}


def described(heading: str) -> set[tuple[str, str, tuple[str, ...]]]:
    """What the page says under that heading: names, types and labels."""
    found = set()
    for cell, kind, labels, what, normal in rows(section(PAGE, heading)):
        (name,) = inline_code(cell)
        assert what, name
        assert normal, name
        found.add((name, kind, tuple(inline_code(labels))))
    return found


def told(metrics: tuple[Metric, ...]) -> set[tuple[str, str, tuple[str, ...]]]:
    return {(metric.sample, metric.kind.value, metric.labels) for metric in metrics}


def test_the_page_has_each_metric_with_its_type_and_labels_and_no_other() -> None:
    both = set(CERTIFICATE_METRICS) & set(EXECUTION_METRICS)
    assert {*PROCESS_METRICS, *LISTENER_METRICS} <= both
    assert described(BOTH) == told(tuple(both))
    assert described(CERTIFICATES) == told(tuple(set(CERTIFICATE_METRICS) - both))
    assert described(EXECUTIONS) == told(tuple(set(EXECUTION_METRICS) - both))
    assert described(WORKERS) == told(WORKER_METRICS)


@pytest.mark.parametrize("metric", ALL.values(), ids=ALL)
def test_labels_name_nobody(metric: Metric) -> None:
    assert not IDENTIFYING & set(metric.labels)
    assert len(metric.labels) <= 3
