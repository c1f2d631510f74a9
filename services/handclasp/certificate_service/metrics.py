"""The metrics of the certificate service. docs/monitoring.md says what each means."""

from __future__ import annotations

from handclasp.transport.metric import Metric
from handclasp.transport.process_metrics import PROCESS_METRICS

CERTIFICATE_METRICS: tuple[Metric, ...] = PROCESS_METRICS
"""All that a process of the service tells."""
