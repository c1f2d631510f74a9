"""`/metrics` of both services, as real processes, while they are used."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import time
import urllib.request
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TypeAlias

import grpc
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from handclasp.accounts.v1.account_service_pb2 import GetUserRequest
from handclasp.accounts.v1.account_service_pb2_grpc import AccountServiceStub
from handclasp.certificate_service.metrics import CERTIFICATE_METRICS
from handclasp.errors import HandclaspError
from handclasp.integration_execution.metrics import EXECUTION_METRICS
from handclasp.integrations.v1.integration_service_pb2 import ExecuteIntegrationRequest
from handclasp.transport.metric import Metric
from handclasp.transport.worker_metrics import WORKER_METRICS
from tests.e2e.clients import client_of
from tests.e2e.processes import Deployment, wait_until
from tests.support.postgres import PostgresServer

pytestmark = pytest.mark.timeout(300)

Samples: TypeAlias = dict[str, list[tuple[dict[str, str], float]]]
EXECUTE = "handclasp.integrations.v1.IntegrationService/ExecuteIntegration"


def scrape(port: int) -> str:
    # Not within the second for which the text of the last time is kept.
    time.sleep(1.1)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text: str = answer.read().decode()
    return text


def samples(text: str) -> Samples:
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def total(found: Samples, name: str, **labels: str) -> float:
    """The sum over all samples with those labels."""
    return sum(value for own, value in found[name] if labels.items() <= own.items())


def names(text: str) -> set[str]:
    return {family.name for family in text_string_to_metric_families(text)}


def health_port(deployment: Deployment, name: str) -> int:
    ready = json.loads((deployment.folder / f"{name}-ready.json").read_text())
    port: int = ready["health_port"]
    return port


async def call(deployment: Deployment, integration: str, times: int, *, connections: int = 1) -> None:
    for _ in range(connections):
        async with client_of(deployment, deployment.folder / "alice") as client:
            for _ in range(times):
                request = ExecuteIntegrationRequest(name=f"integrations/{integration}", input_json="{}")
                with nullcontext() if integration == "echo" else pytest.raises(HandclaspError):
                    await client.integrations.ExecuteIntegration(request, timeout=30)


async def log_in_with_a_wrong_password(deployment: Deployment) -> None:
    ca_pem = (deployment.data_dir / "ca.pem").read_bytes()
    header = (("authorization", "Basic " + base64.b64encode(b"admin:a wrong password").decode()),)
    async with grpc.aio.secure_channel(
        f"localhost:{deployment.ports['tls']}", grpc.ssl_channel_credentials(ca_pem)
    ) as channel:
        stub: Any = AccountServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.GetUser(GetUserRequest(name="users/admin"), metadata=header, timeout=30)


def set_up(deployment: Deployment) -> str:
    """Returns the id of the certificate of alice."""
    deployment.issue_execution_identity()
    deployment.run("user", "create", "alice", "--profile", "regular-user").json()
    issued = deployment.run("cert", "issue", "--user", "alice", "--out", "alice").json()
    return str(issued["id"])


def assert_told(text: str, metrics: tuple[Metric, ...]) -> None:
    assert names(text) == {metric.name for metric in metrics}
    for secret in ("alice", "admin", "executions-1", "127.0.0.1", "spiffe"):
        assert secret not in text


def test_what_is_told_is_what_happened(folder: Path) -> None:
    deployment = Deployment(folder)
    with deployment.certificates():
        certificate = set_up(deployment)
        with deployment.execution_server():
            ports = {name: health_port(deployment, name) for name in ("certificates", "executions")}
            asyncio.run(call(deployment, "echo", 5))
            asyncio.run(call(deployment, "nowhere", 2))
            text = scrape(ports["executions"])
            assert_told(text, EXECUTION_METRICS)
            executions = samples(text)
            assert total(executions, "handclasp_calls_total", method=EXECUTE, code="OK", reason="") == 5
            assert total(executions, "handclasp_calls_total", method=EXECUTE, code="NOT_FOUND") == 2
            assert total(executions, "handclasp_call_seconds_count", method=EXECUTE) == 7
            assert total(executions, "handclasp_decisions_total", how="remembered") >= 4
            assert total(executions, "handclasp_decisions_total", how="asked") >= 1
            assert total(executions, "handclasp_decisions_total", how="refused") == 0
            assert total(executions, "handclasp_lease_running") == 1
            assert total(executions, "handclasp_event_loop_lag_seconds_count") > 0
            # Neither TLS nor anything else that the port knows.
            with socket.create_connection(("127.0.0.1", deployment.ports["executions"]), timeout=10) as nobody:
                nobody.sendall(b"GET / HTTP/1.1\r\n\r\n")
                nobody.recv(100)
            wait_until(
                lambda: (
                    total(samples(scrape(ports["executions"])), "handclasp_handshakes_refused_total", reason="NOT_TLS")
                    == 1
                ),
                "the handshake is counted",
            )
            text = scrape(ports["certificates"])
            assert_told(text, CERTIFICATE_METRICS)
            before = samples(text)
            assert total(before, "handclasp_leases") == total(before, "handclasp_watchers") == 1
            deployment.run("cert", "revoke", certificate).json()
            asyncio.run(log_in_with_a_wrong_password(deployment))
            certificates = samples(scrape(ports["certificates"]))
            acknowledged = ("handclasp_barrier_wait_seconds_count", "acknowledged")
            assert total(certificates, acknowledged[0], ended=acknowledged[1]) == (
                total(before, acknowledged[0], ended=acknowledged[1]) + 1
            )
            assert total(certificates, "handclasp_revision") == total(before, "handclasp_revision") + 1
            assert total(certificates, "handclasp_passwords_total", outcome="wrong") == 1
            assert total(certificates, "handclasp_watcher_lag_revisions") == 0
            assert total(certificates, "handclasp_database_seconds_count", operation="write") > total(
                before, "handclasp_database_seconds_count", operation="write"
            )
            # Counted when it started: the administrator's own.
            assert total(certificates, "handclasp_certificates", state="ACTIVE") >= 1
            assert total(certificates, "handclasp_calls_total", code="OK") > 0
            assert total(certificates, "process_resident_memory_bytes") > 10_000_000


def test_workers_are_told_of_together_and_totals_outlive_them(folder: Path, postgres: PostgresServer) -> None:
    with postgres.database() as url:
        deployment = Deployment(folder, url)
        with deployment.certificates({"HANDCLASP_CERTIFICATES_WORKERS": "2"}):
            set_up(deployment)
            with deployment.execution_server(variables={"HANDCLASP_EXECUTIONS_WORKERS": "2"}) as process:
                port = health_port(deployment, "executions")
                asyncio.run(call(deployment, "echo", 2, connections=8))
                text = scrape(port)
                assert_told(text, (*EXECUTION_METRICS, *WORKER_METRICS))
                before = samples(text)
                assert total(before, "handclasp_calls_total", method=EXECUTE) == 16
                assert total(before, "handclasp_workers_answering") == total(before, "handclasp_workers") == 2
                assert total(before, "handclasp_lease_running") == 1
                children = psutil.Process(process.popen.pid).children()
                victim = next(child for child in children if any(word.endswith(".worker") for word in child.cmdline()))
                victim.kill()
                missing = samples(scrape(port))
                assert total(missing, "handclasp_calls_total", method=EXECUTE) == 16
                wait_until(
                    lambda: total(samples(scrape(port)), "handclasp_workers_answering") == 2, "it is there again"
                )
                asyncio.run(call(deployment, "echo", 1, connections=4))
                after = samples(scrape(port))
                assert total(after, "handclasp_calls_total", method=EXECUTE) == 20
                text = scrape(health_port(deployment, "certificates"))
                assert_told(text, (*CERTIFICATE_METRICS, *WORKER_METRICS))
