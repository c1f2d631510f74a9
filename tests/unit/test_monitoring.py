"""Holds docs/monitoring.md and what the services tell together."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from handclasp.certificate_service.certificate_counting import WITHIN
from handclasp.certificate_service.metrics import CERTIFICATE_METRICS
from handclasp.certificate_service.passwords.checking import Outcome
from handclasp.certificate_service.watching.barrier import Ending
from handclasp.errors.status import CODES
from handclasp.integration_execution.metrics import EXECUTION_METRICS
from handclasp.serving.call_budgets import Budget
from handclasp.transport.listener_metrics import LISTENER_METRICS
from handclasp.transport.metric import Kind, Metric
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
# Labels that Prometheus itself adds, and those of buckets.
ADDED = {"job", "instance", "le"}
VALUES: dict[tuple[str, str], set[str]] = {
    ("handclasp_calls", "code"): {"OK", "CANCELLED", *(code.name for code in CODES.values())},
    ("handclasp_barrier_wait_seconds", "ended"): set(Ending),
    ("handclasp_passwords", "outcome"): set(Outcome),
    ("handclasp_calls_over_budget", "budget"): {budget.value for budget in Budget},
    ("handclasp_certificates_expiring", "within"): set(WITHIN),
}
SELECTOR = re.compile(r"\b((?:handclasp|process)_\w+)(?:\{(.*?)\})?")
MATCHER = re.compile(r'(\w+)(=~|!~|!=|=)"((?:[^"\\]|\\.)*)"')
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


def sample_names(metric: Metric) -> set[str]:
    """What queries may name of it."""
    if metric.kind is Kind.HISTOGRAM:
        return {f"{metric.name}_{suffix}" for suffix in ("bucket", "sum", "count")}
    return {metric.sample}


SAMPLES = {name: metric for metric in ALL.values() for name in sample_names(metric)}


def rules() -> list[str]:
    """The expressions of the alert rules. Each is one line, or folded below `>-`."""
    text = (ROOT / "deploy/prometheus-rules.yaml").read_text(encoding="utf-8")
    found = re.findall(r"^ +expr: (?:>-\n((?: {10}.*\n)+)|(.+)\n)", text, re.MULTILINE)
    assert len(found) == text.count("- alert: ")
    return [" ".join((folded or line).split()) for folded, line in found]


def panels() -> Iterator[str]:
    dashboard: dict[str, Any] = json.loads((ROOT / "deploy/grafana-dashboard.json").read_text(encoding="utf-8"))
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            yield target["expr"]
    yield from (one["query"] for one in dashboard["templating"]["list"] if one["type"] == "query")


def grouped_by(expression: str) -> set[str]:
    return {name.strip() for names in re.findall(r"\bby \(([^)]*)\)", expression) for name in names.split(",")}


@pytest.mark.parametrize("expression", [*rules(), *panels()])
def test_rules_and_dashboard_use_what_there_is(expression: str) -> None:
    assert expression.count("(") == expression.count(")")
    labels: set[str] = set()
    for name, matchers in SELECTOR.findall(expression):
        assert name in SAMPLES, name
        metric = SAMPLES[name]
        labels |= set(metric.labels)
        for label, how, value in MATCHER.findall(matchers):
            assert label in {*metric.labels, *ADDED}, (name, label)
            known = VALUES.get((metric.name, label))
            if known is not None and how in ("=", "=~"):
                assert set(value.split("|")) <= known, (name, label, value)
    assert grouped_by(expression) <= labels | ADDED


def test_the_page_names_each_alert() -> None:
    text = (ROOT / "deploy/prometheus-rules.yaml").read_text(encoding="utf-8")
    alerts = re.findall(r"- alert: (\w+)", text)
    assert [name for (name,) in map(inline_code, (cells[0] for cells in rows(section(PAGE, "Alerts"))))] == alerts
