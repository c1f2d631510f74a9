"""Whether a peer is accepted at all, and that this comes before anything of a request is read."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from handclasp.accounts.v1 import account_service_pb2
from handclasp.authorization.v1 import decision_pb2
from handclasp.certificates.v1 import certificate_service_pb2 as pb
from handclasp.errors import HandclaspError, InvalidArgument, PermissionDenied
from handclasp.errors.status import from_rpc_error
from tests.rpc.certificate_harness import decide, refusal
from tests.rpc.execution_harness import running_pair
from tests.support.installation import Identity, Installation

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def check(installation: Installation, leaf: bytes, **fields: Any) -> decision_pb2.Decision:
    request = pb.CheckPeerRequest(peer_certificate=leaf, **fields)
    return await installation.relying_party.certificates.CheckPeer(request)


def reason(decision: decision_pb2.Decision) -> str:
    assert decision.allowed is (decision.reason == decision_pb2.DECISION_REASON_ALLOWED)
    return decision_pb2.DecisionReason.Name(decision.reason).removeprefix("DECISION_REASON_")


async def ended_with(call: Any) -> HandclaspError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asyncio.wait_for(call, 20)
    return from_rpc_error(caught.value)


async def test_a_certificate_in_force_is_accepted_whatever_its_user_may_do(installation: Installation) -> None:
    user = await installation.new_user()
    identity = await installation.issue(user)
    decision = await check(installation, identity.der, peer_address="192.0.2.1")
    assert reason(decision) == "ALLOWED"
    assert (decision.user, decision.certificate) == (f"users/{user}", identity.name)
    assert (decision.permission, decision.resource) == (0, "")
    assert list(decision.rests_on) == [identity.name, f"users/{user}"]
    assert decision.HasField("expire_time")
    assert decision.revision > 0


async def test_what_is_taken_away_is_accepted_no_more_and_is_on_record(installation: Installation) -> None:
    revoked, held, disabled = [await installation.issue(await installation.new_user()) for _ in range(3)]
    certificates = installation.admin.certificates
    await certificates.RevokeCertificate(pb.RevokeCertificateRequest(name=revoked.name))
    await certificates.HoldCertificate(pb.HoldCertificateRequest(name=held.name))
    user = (await check(installation, disabled.der)).user
    await installation.admin.accounts.DisableUser(account_service_pb2.DisableUserRequest(name=user))
    reasons = [reason(await check(installation, identity.der)) for identity in (revoked, held, disabled)]
    assert reasons == ["REVOKED", "ON_HOLD", "USER_DISABLED"]
    assert reason(await check(installation, b"no certificate at all")) == "UNKNOWN_CERTIFICATE"


async def test_only_relying_parties_may_ask(installation: Installation) -> None:
    nobody = await installation.issue(await installation.new_user("regular-user"))
    narrow = await installation.issue(await installation.new_user(grants={"AUTHORIZE_PEERS": "integrations/nothing"}))
    request = pb.CheckPeerRequest(peer_certificate=nobody.der)
    async with installation.client(nobody) as client:
        await refusal(client.certificates.CheckPeer(request), PermissionDenied, "ACCESS_DENIED")
    async with installation.client(narrow) as client:
        assert (await client.certificates.CheckPeer(request)).allowed
    user = await installation.new_user("relying-party", password="a long enough password")
    async with installation.client(user=user, password="a long enough password") as client:
        await refusal(client.certificates.CheckPeer(request), PermissionDenied, "MUTUAL_TLS_REQUIRED")


@pytest.mark.parametrize(
    "request_",
    [
        pb.CheckPeerRequest(),
        pb.CheckPeerRequest(peer_certificate=b"x" * 100_000),
        pb.CheckPeerRequest(peer_certificate=b"x", peer_address="x" * 1000),
        pb.CheckPeerRequest(peer_certificate=b"x", peer_address="\x1b"),
    ],
)
async def test_what_does_not_fit_is_named(installation: Installation, request_: pb.CheckPeerRequest) -> None:
    await refusal(installation.relying_party.certificates.CheckPeer(request_), InvalidArgument, "FIELD_INVALID")


async def test_a_permission_left_out_is_never_taken_for_this_question(installation: Installation) -> None:
    identity = await installation.issue(await installation.new_user("regular-user"))
    call = decide(installation, identity.der, permission=0)
    await refusal(call, InvalidArgument, "FIELD_INVALID")


def channel(installation: Installation, port: str, identity: Identity | None) -> grpc.aio.Channel:
    pair = (None, None) if identity is None else (identity.key_pem, identity.certificate_pem)
    credentials = grpc.ssl_channel_credentials(installation.ca_pem, *pair)
    return grpc.aio.secure_channel(f"localhost:{installation.ports[port]}", credentials)


async def test_on_mutual_tls_health_and_reflection_need_a_certificate_in_force(installation: Installation) -> None:
    identity = await installation.issue(await installation.new_user())
    async with channel(installation, "mtls_port", identity) as mutual, channel(installation, "tls_port", None) as open_:
        health: Any = health_pb2_grpc.HealthStub(mutual)
        reflection: Any = reflection_pb2_grpc.ServerReflectionStub(mutual)
        listing = reflection_pb2.ServerReflectionRequest(list_services="*")
        assert (await health.Check(health_pb2.HealthCheckRequest())).status == health_pb2.HealthCheckResponse.SERVING
        assert [answer async for answer in reflection.ServerReflectionInfo(iter([listing]))]
        revocation = pb.RevokeCertificateRequest(name=identity.name)
        await installation.admin.certificates.RevokeCertificate(revocation)
        for call in (
            health.Check(health_pb2.HealthCheckRequest()),
            health.Watch(health_pb2.HealthCheckRequest()).read(),
            reflection.ServerReflectionInfo(iter([listing])).read(),
        ):
            assert (await ended_with(call)).reason == "CERTIFICATE_NOT_ACCEPTED"
        anybody: Any = health_pb2_grpc.HealthStub(open_)
        assert (await anybody.Check(health_pb2.HealthCheckRequest())).status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("method", ["GetUser", "CreateUser", "NoMethod"])
async def test_nobody_has_a_request_read_without_credentials(installation: Installation, method: str) -> None:
    async with channel(installation, "tls_port", None) as open_:
        begin: Any = open_.stream_unary(f"/handclasp.accounts.v1.AccountService/{method}")
        error = await ended_with(begin(timeout=60))
        assert error.reason == ("METHOD_UNKNOWN" if method == "NoMethod" else "CREDENTIALS_MISSING")


async def test_the_execution_server_reads_no_request_of_a_peer_that_is_not_accepted(tmp_path: Path) -> None:
    async with running_pair(tmp_path) as pair:
        async with pair.channel(pair.alice) as accepted:
            begin: Any = accepted.stream_unary("/handclasp.integrations.v1.IntegrationService/ExecuteIntegration")
            call = begin(timeout=60)
            await asyncio.sleep(0.2)
            assert not call.done()
            await pair.service.take_away(pair.alice.der, decision_pb2.DECISION_REASON_REVOKED)
            assert (await ended_with(call)).reason == "AUTHORIZATION_WITHDRAWN"
            assert (await ended_with(begin(timeout=60))).reason == "CERTIFICATE_NOT_ACCEPTED"
            health: Any = health_pb2_grpc.HealthStub(accepted)
            assert (
                await ended_with(health.Check(health_pb2.HealthCheckRequest()))
            ).reason == "CERTIFICATE_NOT_ACCEPTED"
        assert pair.service.peers
        assert not pair.service.checked
