"""Who fills the log with refusals pushes nothing out of it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import grpc
import pytest

from handclasp.accounts.v1.account_service_pb2 import GetUserRequest
from handclasp.accounts.v1.account_service_pb2_grpc import AccountServiceStub
from handclasp.integrations.v1.integration_service_pb2 import ListIntegrationsRequest
from handclasp.integrations.v1.integration_service_pb2_grpc import IntegrationServiceStub
from tests.e2e.processes import Pair, environment, running_up, wait_until

pytestmark = pytest.mark.timeout(300)

CALLS = 2000
MOST_BYTES = 32 * 1024


def events(*files: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for file in files if file.exists() for line in file.read_text().splitlines()]


def credentials_of(pair: Pair, *own: Path) -> grpc.ChannelCredentials:
    """Those that believe the pair, with a key and a certificate of one's own if they are given."""
    return grpc.ssl_channel_credentials(*(file.read_bytes() for file in (Path(pair.ready["ca_file"]), *own)))


async def flood(pair: Pair) -> None:
    """Calls without credentials at the certificate service."""
    credentials = credentials_of(pair)
    async with grpc.aio.secure_channel(pair.ready["certificates_tls"], credentials) as channel:
        stub: Any = AccountServiceStub(channel)

        async def call(number: int) -> None:
            with pytest.raises(grpc.aio.AioRpcError):
                await stub.GetUser(GetUserRequest(name=f"users/somebody-{number}"), timeout=60)

        for start in range(0, CALLS, 50):
            await asyncio.gather(*map(call, range(start, start + 50)))


async def flood_with_certificate(pair: Pair, identity: Path) -> None:
    """Calls of somebody who may call nothing any more, at the execution server."""
    credentials = credentials_of(pair, identity / "key.pem", identity / "cert.pem")
    async with grpc.aio.secure_channel(pair.ready["executions"], credentials) as channel:
        stub: Any = IntegrationServiceStub(channel)

        async def call(_: int) -> None:
            with pytest.raises(grpc.aio.AioRpcError):
                await stub.ListIntegrations(ListIntegrationsRequest(), timeout=60)

        for start in range(0, CALLS // 4, 25):
            await asyncio.gather(*map(call, range(start, start + 25)))


def test_a_flood_of_refusals_costs_few_lines_and_each_is_counted(tmp_path: Path) -> None:
    variables = environment(
        HANDCLASP_CERTIFICATES_LOG__FORMAT="json",
        HANDCLASP_EXECUTIONS_LOG__FORMAT="json",
        # What would be pushed out by a few hundred lines.
        HANDCLASP_CERTIFICATES_LOG__MAX_BYTES=str(MOST_BYTES),
        HANDCLASP_CERTIFICATES_LOG__BACKUPS="1",
    )
    with running_up(tmp_path, variables=variables) as pair:
        pair.json("user", "create", "alice", "--profile", "regular-user")
        issued = pair.json("cert", "issue", "--user", "alice", "--out", tmp_path / "alice")
        pair.json("cert", "revoke", issued["id"])
        logs = pair.data_dir / "logs"
        before = {name: (logs / f"{name}.log").stat().st_size for name in ("certificates", "executions")}

        asyncio.run(flood(pair))
        asyncio.run(flood_with_certificate(pair, tmp_path / "alice"))

        for name, size in before.items():
            assert (logs / f"{name}.log").stat().st_size - size < MOST_BYTES / 4, name
        changed = {event["event"]: event for event in events(logs / "certificates-changes.log")}
        assert {"user_created", "certificate_issued", "certificate_revoked"} <= set(changed)
        assert changed["certificate_revoked"]["stream"] == "changes"
        assert changed["certificate_revoked"]["by"] == "users/admin"
        assert not (logs / "executions-changes.log").exists()

    # Stopped: what was counted and not logged yet is logged now.
    certificates = events(logs / "certificates.log.1", logs / "certificates.log")
    executions = events(logs / "executions.log")
    counted = {
        reason: sum(event.get("count", 1) for event in found if (event["event"], event.get("reason")) == reason)
        for found, reason in (
            (certificates, ("refused", "CREDENTIALS_MISSING")),
            (executions, ("refused", "CERTIFICATE_NOT_ACCEPTED")),
        )
    }
    assert counted == {
        ("refused", "CREDENTIALS_MISSING"): CALLS,
        ("refused", "CERTIFICATE_NOT_ACCEPTED"): CALLS // 4,
    }


def test_refusals_are_counted_in_the_log_while_it_goes_on(tmp_path: Path) -> None:
    variables = environment(
        HANDCLASP_CERTIFICATES_LOG__FORMAT="json", HANDCLASP_CERTIFICATES_REFUSALS__WINDOW="1", HANDCLASP_CONTEXT=None
    )
    with running_up(tmp_path, variables=variables) as pair:
        asyncio.run(flood(pair))

        def counted() -> int:
            found = events(pair.data_dir / "logs" / "certificates.log")
            return sum(event.get("count", 1) for event in found if event["event"] == "refused")

        wait_until(lambda: counted() == CALLS, "all are counted, though nothing is refused any more")
