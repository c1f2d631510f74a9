"""The execution server as a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from handclasp.integrations.v1 import integration_service_pb2 as messages
from handclasp.integrations.v1.integration_service_pb2_grpc import IntegrationServiceStub
from tests.rpc.execution_harness import ALLOWED, certificate_service, execution_settings, until
from tests.support.outside_ca import CLIENT_AUTH, OutsideCA


def environment(folder: Path, ca: OutsideCA, service_port: int, **more: Any) -> dict[str, str]:
    """The settings as variables of a process."""
    settings = execution_settings(folder, ca, service_port).model_dump(
        mode="json", include={"certificate_service", "ca_file", "identity_cert", "identity_key", "ready_file"}
    )
    settings |= {"port": 0, "health_port": 0} | more
    return os.environ | {f"HANDCLASP_EXECUTIONS_{name.upper()}": str(value) for name, value in settings.items()}


@asynccontextmanager
async def process(folder: Path, variables: dict[str, str]) -> AsyncIterator[asyncio.subprocess.Process]:
    running = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "handclasp.integration_execution",
        cwd=folder,
        env=variables,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield running
    finally:
        if running.returncode is None:
            running.kill()
            await running.wait()


async def test_it_serves_and_stops_on_sigterm(tmp_path: Path) -> None:
    ca = OutsideCA("Test CA")
    alice, stranger = ca.issue("alice"), OutsideCA("Foreign CA").issue("alice")
    async with certificate_service(ca) as (service, port):
        service.reasons[alice.der] = ALLOWED
        variables = environment(tmp_path, ca, port, LOG__FILE=tmp_path / "executions.log", LOG__FORMAT="json")
        async with process(tmp_path, variables) as running:
            ready_file = tmp_path / "ready.json"
            await until(lambda: ready_file.exists() or running.returncode is not None)
            ready = json.loads(ready_file.read_text())
            assert stat.S_IMODE(ready_file.stat().st_mode) == 0o600
            for client, works in ((alice, True), (stranger, False)):
                credentials = grpc.ssl_channel_credentials(
                    ca.pem.encode(), client.key_pem.encode(), client.pem.encode()
                )
                async with grpc.aio.secure_channel(f"127.0.0.1:{ready['port']}", credentials) as channel:
                    request = messages.ExecuteIntegrationRequest(name="integrations/echo", input_json='{"a":1}')
                    call = IntegrationServiceStub(channel).ExecuteIntegration(request, timeout=5)
                    if works:
                        assert (await call).output_json == '{"a":1}'
                    else:
                        with pytest.raises(grpc.aio.AioRpcError):
                            await call
            running.send_signal(signal.SIGTERM)
            _, said = await running.communicate()
    assert running.returncode == 0
    # Not even gRPC's own lines about failed handshakes, which anybody can cause.
    assert said == b""
    assert not ready_file.exists()
    events = [json.loads(line)["event"] for line in (tmp_path / "executions.log").read_text().splitlines()]
    assert events[-2:] == ["stopping", "stopped"]


async def refused_start(folder: Path, variables: dict[str, str]) -> tuple[int | None, str]:
    async with process(folder, variables) as running:
        _, said = await running.communicate()
        return running.returncode, said.decode().splitlines()[-1]


async def test_settings_that_do_not_fit_are_told_in_a_line(tmp_path: Path) -> None:
    status, line = await refused_start(tmp_path, os.environ | {"HANDCLASP_EXECUTIONS_PORT": "much"})
    assert status == 2
    for field in ("port", "ca_file", "identity_cert", "identity_key"):
        assert field in line


async def test_a_start_that_cannot_work_is_told_in_a_line(tmp_path: Path) -> None:
    ca = OutsideCA("Test CA")
    async with certificate_service(ca) as (_, port):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            taken_port = taken.getsockname()[1]
            status, line = await refused_start(tmp_path, environment(tmp_path, ca, port, port=taken_port))
            assert status == 1
            assert line.startswith(
                f"START_NOT_POSSIBLE: handclasp executions: cannot listen on 127.0.0.1 port {taken_port}: another"
            )
        folder = tmp_path / "integrations"
        folder.mkdir()
        (folder / "broken.py").write_text("def (")
        status, line = await refused_start(tmp_path, environment(tmp_path, ca, port, integrations_folder=folder))
        assert (status, "broken.py" in line) == (1, True)
        nowhere = environment(tmp_path, ca, port, integrations_folder=tmp_path / "nowhere")
        async with process(tmp_path, nowhere) as running:
            _, said = await running.communicate()
        # A traceback only if it leads somewhere.
        assert len(said.splitlines()) == 1
        (tmp_path / "identity-key.pem").chmod(0o644)
        status, line = await refused_start(tmp_path, environment(tmp_path, ca, port))
        assert (status, "chmod 600" in line) == (1, True)


@pytest.mark.parametrize(("has", "lacks"), [("clientAuth", "serverAuth"), ("serverAuth", "clientAuth")])
async def test_an_identity_that_would_fail_at_the_other_end_is_refused(tmp_path: Path, has: str, lacks: str) -> None:
    ca = OutsideCA("Test CA")
    variables = environment(tmp_path, ca, 1)
    purposes = {"clientAuth": CLIENT_AUTH, "serverAuth": ExtendedKeyUsageOID.SERVER_AUTH}
    issued = ca.issue(purposes=(purposes[has],))
    for name, pem in (("CERT", issued.pem), ("KEY", issued.key_pem)):
        path = Path(variables[f"HANDCLASP_EXECUTIONS_IDENTITY_{name}"])
        path.write_text(pem)  # noqa: ASYNC240
    status, line = await refused_start(tmp_path, variables)
    assert status == 1
    assert f"the certificate has no {lacks}; issue" in line
    assert "--server-name" in line
