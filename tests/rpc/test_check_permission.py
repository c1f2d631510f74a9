"""CheckPermission and BatchCheckPermissions: each reason, and that what the handshake lets in is still judged."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from grpc._cython.cygrpc import SSLSessionCacheLRU
from sqlalchemy import select

from handclasp.accounts.v1 import account_service_pb2
from handclasp.authorization.v1 import authorization_service_pb2, decision_pb2, permission_pb2
from handclasp.certificate_service.storage.schema import denials
from handclasp.certificates.v1 import certificate_service_pb2 as pb
from handclasp.certificates.v1.certificate_service_pb2_grpc import CertificateServiceStub
from handclasp.errors import HandclaspError, InvalidArgument, NotFound, PermissionDenied
from handclasp.errors.status import from_rpc_error
from handclasp.integration_execution.main import serve
from handclasp.integration_execution.settings import ExecutionSettings
from handclasp.integrations.v1 import integration_service_pb2
from handclasp.integrations.v1.integration_service_pb2_grpc import IntegrationServiceStub
from handclasp.serving.files import write_secret
from handclasp.transport.lifecycle import StopRequests
from tests.rpc.certificate_harness import (
    EXECUTE,
    add_anchor,
    beside,
    decide,
    held,
    refusal,
    trusted_ca,
    upload,
    why,
)
from tests.rpc.execution_harness import wait_until_ready
from tests.support.installation import Identity, Installation
from tests.support.outside_ca import OutsideCA, signature_twin

pytestmark = pytest.mark.asyncio(loop_scope="module")

PASSWORD = "a long enough password"
LISTING = pb.ListCertificatesRequest(page_size=1)
ECHO = integration_service_pb2.ExecuteIntegrationRequest(name="integrations/echo", input_json="{}")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def executions(installation: Installation, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """The address of an execution server that asks the installation."""
    folder: Path = tmp_path_factory.mktemp("executions")
    identity = installation.relying_party_identity
    (folder / "ca.pem").write_bytes(installation.ca_pem)
    (folder / "cert.pem").write_bytes(identity.certificate_pem)
    write_secret(folder / "key.pem", identity.key_pem)
    settings = ExecutionSettings(
        port=0,
        health_port=0,
        certificate_service=installation.mtls_address,
        ca_file=folder / "ca.pem",
        identity_cert=folder / "cert.pem",
        identity_key=folder / "key.pem",
        ready_file=folder / "ready.json",
        grace=0.5,
    )
    stop = StopRequests()
    serving = asyncio.create_task(serve(settings, stop))
    try:
        ready = await wait_until_ready(folder / "ready.json", serving)
        yield f"localhost:{ready['port']}"
    finally:
        stop.request()
        await serving


def channel(
    installation: Installation, address: str, identity: Identity, sessions: SSLSessionCacheLRU | None = None
) -> grpc.aio.Channel:
    """A channel with connections of its own, which resume the TLS sessions in a cache, if there is one."""
    options: list[tuple[str, Any]] = [("grpc.use_local_subchannel_pool", 1)]
    if sessions is not None:
        options.append(("grpc.ssl_session_cache", sessions))
    credentials = grpc.ssl_channel_credentials(installation.ca_pem, identity.key_pem, identity.certificate_pem)
    return grpc.aio.secure_channel(address, credentials, options=options)


async def outcome(call: Awaitable[Any]) -> str:
    """How a call ends: "ok", "no connection", or the reason that the service gave, with the decision's name."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.UNAVAILABLE and "failed to connect" in (error.details() or ""):
            return "no connection"
        refused = from_rpc_error(error)
        return f"{refused.reason} {refused.metadata.get('decision', '')}"
    return "ok"


async def explained(installation: Installation, told: str) -> str:
    """The reason on record for the decision that a refusal names."""
    reason, _, decision = told.partition(" ")
    assert reason == "CERTIFICATE_NOT_ACCEPTED", told
    record = await installation.admin.authorization.ExplainDecision(
        authorization_service_pb2.ExplainDecisionRequest(name=decision)
    )
    return decision_pb2.DecisionReason.Name(record.decision.reason).removeprefix("DECISION_REASON_")


async def call_both(
    installation: Installation, executions: str, identity: Identity, sessions: list[SSLSessionCacheLRU] | None = None
) -> list[str]:
    """How a call to the certificate service, and one to the execution server, end on new connections."""
    first, second = sessions or [None, None]
    async with (
        channel(installation, installation.mtls_address, identity, first) as certificates,
        channel(installation, executions, identity, second) as integrations,
    ):
        stub: Any = CertificateServiceStub(certificates)
        runs: Any = IntegrationServiceStub(integrations)
        return [
            await outcome(stub.ListCertificates(LISTING, timeout=20)),
            await outcome(runs.ExecuteIntegration(ECHO, timeout=20)),
        ]


def pem_of_der(der: bytes) -> bytes:
    return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)


async def test_a_rewritten_signature_passes_the_handshake_and_is_refused_by_the_decision(
    installation: Installation, executions: str
) -> None:
    alice = await installation.new_user("regular-user")
    identity = await installation.issue(alice)
    assert await call_both(installation, executions, identity) == ["ok", "ok"]
    twin = signature_twin(identity.leaf)
    chain = identity.certificate_pem.replace(pem_of_der(identity.der), pem_of_der(twin))
    assert chain != identity.certificate_pem

    told = await call_both(installation, executions, Identity("", chain, identity.key_pem))

    assert [await explained(installation, one) for one in told] == ["UNKNOWN_CERTIFICATE"] * 2
    assert await why(installation, twin) == "UNKNOWN_CERTIFICATE"
    assert await why(installation, identity.der) == "ALLOWED"


async def test_an_expired_certificate_that_comes_back_by_session_resumption_is_refused(
    installation: Installation, executions: str
) -> None:
    alice = await installation.new_user("regular-user")
    # Certificates are good for a minute at least: one of 57 seconds ago, by the service's clock, has 3 seconds left.
    with installation.clock.ahead(timedelta(seconds=-57)):
        identity = await installation.issue(alice, lifetime=timedelta(minutes=1))
    sessions = [SSLSessionCacheLRU(10), SSLSessionCacheLRU(10)]
    assert await call_both(installation, executions, identity, sessions) == ["ok", "ok"]
    left = identity.leaf.not_valid_after_utc - datetime.now(UTC)
    await asyncio.sleep(max(0.0, left.total_seconds()) + 1.1)

    assert await call_both(installation, executions, identity) == ["no connection"] * 2, "a full handshake"
    told = await call_both(installation, executions, identity, sessions)

    assert [await explained(installation, one) for one in told] == ["EXPIRED"] * 2


async def test_a_yes_says_whom_what_and_until_when(installation: Installation) -> None:
    profile = await installation.new_profile({"EXECUTE_INTEGRATIONS": "integrations/orders.*"})
    alice = await installation.new_user(profile)
    identity = await installation.issue(alice)
    decision = await decide(installation, identity.der, "integrations/orders.summarize")
    assert decision.allowed
    assert decision.reason == decision_pb2.DECISION_REASON_ALLOWED
    assert decision.name.startswith("decisions/")
    assert profile in decision.rule
    assert decision.user == f"users/{alice}"
    assert decision.certificate == identity.name
    assert decision.permission == EXECUTE
    assert decision.resource == "integrations/orders.summarize"
    assert decision.expire_time.seconds == int(identity.leaf.not_valid_after_utc.timestamp())
    assert decision.decide_time.seconds < decision.expire_time.seconds
    assert not decision.HasField("retry_time")
    again = await decide(installation, identity.der, "integrations/orders.summarize")
    assert again.name != decision.name


async def test_unknown_certificates(installation: Installation) -> None:
    ca = await trusted_ca(installation)
    for leaf in (ca.issue().der, b"\x30\x00", b"no certificate at all"):
        decision = await decide(installation, leaf)
        assert decision.reason == decision_pb2.DECISION_REASON_UNKNOWN_CERTIFICATE
        assert (decision.allowed, decision.user, decision.certificate) == (False, "", "")
        assert not decision.HasField("expire_time")


async def test_validity_is_judged_by_the_service_clock(installation: Installation) -> None:
    ca = await trusted_ca(installation)
    alice = await installation.new_user("regular-user")
    issued = await installation.issue(alice, lifetime=timedelta(hours=1))
    with installation.clock.ahead(timedelta(hours=5)):
        future = ca.issue(not_before=ca.now + timedelta(hours=4))
        await upload(installation, alice, future)
        assert await why(installation, future.der) == "ALLOWED"
        assert await why(installation, issued.der) == "EXPIRED"
    assert await why(installation, future.der) == "NOT_YET_VALID"
    assert await why(installation, issued.der) == "ALLOWED"
    with installation.clock.ahead(timedelta(minutes=59)):
        assert await why(installation, issued.der) == "ALLOWED"
    with installation.clock.ahead(timedelta(hours=1, seconds=1)):
        assert await why(installation, issued.der) == "EXPIRED"


async def test_a_certificate_is_good_no_longer_than_what_it_chains_to(installation: Installation) -> None:
    alice = await installation.new_user("regular-user")
    now = installation.clock()
    short_anchor = OutsideCA("Short-lived root", now=now, not_after=now + timedelta(hours=2))
    lasting = OutsideCA("Lasting root", now=now)
    short_between = lasting.intermediate("Short-lived intermediate", not_after=now + timedelta(hours=3))
    for ca in (short_anchor, lasting):
        await add_anchor(installation, ca)
    for ca, lasts in ((short_anchor, timedelta(hours=2)), (short_between, timedelta(hours=3))):
        leaf = ca.issue()
        await upload(installation, alice, leaf)
        decision = await decide(installation, leaf.der)
        assert decision.allowed
        assert decision.expire_time.seconds == int(ca.certificate.not_valid_after_utc.timestamp())
        with installation.clock.ahead(lasts - timedelta(minutes=1)):
            assert await why(installation, leaf.der) == "ALLOWED"
        with installation.clock.ahead(lasts + timedelta(minutes=1)):
            assert await why(installation, leaf.der) == "EXPIRED"


async def test_what_stands_against_a_user(installation: Installation) -> None:
    alice = await installation.new_user("regular-user")
    identity = await installation.issue(alice)
    accounts = installation.admin.accounts
    await accounts.DisableUser(account_service_pb2.DisableUserRequest(name=f"users/{alice}"))
    assert await why(installation, identity.der) == "USER_DISABLED"
    await accounts.EnableUser(account_service_pb2.EnableUserRequest(name=f"users/{alice}"))
    assert await why(installation, identity.der) == "ALLOWED"

    none = await installation.issue(await installation.new_user(grants={"VIEW_EXECUTIONS": "*"}))
    assert await why(installation, none.der) == "PERMISSION_MISSING"
    some = await installation.issue(await installation.new_user(grants={"EXECUTE_INTEGRATIONS": "integrations/a*"}))
    assert await why(installation, some.der, resource="integrations/abc") == "ALLOWED"
    assert await why(installation, some.der, resource="integrations/b") == "RESOURCE_NOT_GRANTED"
    exact = await installation.issue(await installation.new_user(grants={"EXECUTE_INTEGRATIONS": "integrations/a"}))
    assert await why(installation, exact.der, resource="integrations/a") == "ALLOWED"
    assert await why(installation, exact.der, resource="integrations/ab") == "RESOURCE_NOT_GRANTED"


async def test_credentials_sent_along_must_be_the_same_users(installation: Installation) -> None:
    alice = await installation.new_user("regular-user", password=PASSWORD)
    bob = await installation.new_user("regular-user", password=PASSWORD)
    without_password = await installation.new_user("regular-user")
    leaf = (await installation.issue(alice)).der

    async def told(username: str, password: str, leaf: bytes = leaf) -> str:
        credentials = decision_pb2.BasicCredentials(username=username, password=password)
        return await why(installation, leaf, basic_credentials=credentials, peer_address="192.0.2.1")

    assert await told(alice, PASSWORD) == "ALLOWED"
    assert await told(alice, "a wrong long password") == "CREDENTIALS_INVALID"
    assert await told(alice, "") == "CREDENTIALS_INVALID"
    assert await told(bob, PASSWORD) == "CREDENTIALS_MISMATCH"
    assert await told("", "") == "CREDENTIALS_MISMATCH"
    assert await told(f"{alice} ", PASSWORD) == "CREDENTIALS_MISMATCH"
    other = (await installation.issue(without_password)).der
    assert await told(without_password, "", other) == "CREDENTIALS_INVALID"


async def test_wrong_passwords_slow_down_that_user_from_that_address(installation: Installation) -> None:
    alice = await installation.new_user("regular-user", password=PASSWORD)
    bob = await installation.new_user("regular-user", password=PASSWORD)
    leaf, of_bob = (await installation.issue(alice)).der, (await installation.issue(bob)).der

    async def ask(user: str, password: str, address: str, leaf: bytes) -> decision_pb2.Decision:
        credentials = decision_pb2.BasicCredentials(username=user, password=password)
        return await decide(installation, leaf, basic_credentials=credentials, peer_address=address)

    reasons = []
    for _ in range(12):
        decision = await ask(alice, "a wrong long password", "192.0.2.7", leaf)
        reasons.append(decision.reason)
        if decision.reason == decision_pb2.DECISION_REASON_CREDENTIALS_THROTTLED:
            break
    assert reasons[0] == decision_pb2.DECISION_REASON_CREDENTIALS_INVALID
    assert reasons[-1] == decision_pb2.DECISION_REASON_CREDENTIALS_THROTTLED
    assert decision.retry_time.ToNanoseconds() > decision.decide_time.ToNanoseconds()
    assert (await ask(alice, PASSWORD, "192.0.2.8", leaf)).allowed, "from another address"
    assert (await ask(bob, PASSWORD, "192.0.2.7", of_bob)).allowed, "another user"
    assert await why(installation, leaf, peer_address="192.0.2.7") == "ALLOWED", "without a password"
    with installation.clock.ahead(timedelta(minutes=6)):
        assert (await ask(alice, PASSWORD, "192.0.2.7", leaf)).allowed, "later"


async def test_a_batch_is_decided_in_order_and_at_one_moment(installation: Installation) -> None:
    user = await installation.new_user(grants={"EXECUTE_INTEGRATIONS": "integrations/even-*"})
    leaf = (await installation.issue(user)).der
    resources = [f"integrations/{'odd' if index % 2 else 'even'}-{index}" for index in range(100)]

    def batch(names: list[str]) -> pb.BatchCheckPermissionsRequest:
        return pb.BatchCheckPermissionsRequest(peer_certificate=leaf, permission=EXECUTE, resources=names)

    ask = installation.relying_party.certificates.BatchCheckPermissions
    decisions = (await ask(batch(resources))).decisions
    assert [decision.resource for decision in decisions] == resources
    assert [decision.allowed for decision in decisions] == [True, False] * 50
    assert {decision.reason for decision in decisions} == {
        decision_pb2.DECISION_REASON_ALLOWED,
        decision_pb2.DECISION_REASON_RESOURCE_NOT_GRANTED,
    }
    assert len({decision.decide_time.ToNanoseconds() for decision in decisions}) == 1
    assert len({decision.name for decision in decisions}) == 100
    for names, at_fault in (
        ([], "resources"),
        ([*resources, "integrations/one-more"], "resources"),
        (["integrations/a", ""], "resources.1"),
    ):
        error = await refusal(ask(batch(names)), InvalidArgument, "FIELD_INVALID")
        assert [violation.field for violation in error.violations] == [at_fault]


async def test_only_relying_parties_over_mutual_tls_may_ask(installation: Installation) -> None:
    leaf = (await installation.issue(await installation.new_user("regular-user"))).der
    limited = await installation.new_user(grants={"AUTHORIZE_PEERS": "integrations/a*"}, password=PASSWORD)

    def question(resource: str) -> pb.CheckPermissionRequest:
        return pb.CheckPermissionRequest(peer_certificate=leaf, permission=EXECUTE, resource=resource)

    async with installation.client(await installation.issue(limited)) as client:
        assert (await client.certificates.CheckPermission(question("integrations/abc"))).allowed
        await refusal(
            client.certificates.CheckPermission(question("integrations/b")), PermissionDenied, "ACCESS_DENIED"
        )
        both = pb.BatchCheckPermissionsRequest(
            peer_certificate=leaf, permission=EXECUTE, resources=["integrations/abc", "integrations/b"]
        )
        await refusal(client.certificates.BatchCheckPermissions(both), PermissionDenied, "ACCESS_DENIED")
    async with installation.client(user=limited, password=PASSWORD) as client:
        for call in (
            client.certificates.CheckPermission(question("integrations/abc")),
            client.certificates.BatchCheckPermissions(both),
        ):
            await refusal(call, PermissionDenied, "MUTUAL_TLS_REQUIRED")
    async with installation.client(await installation.issue(await installation.new_user("regular-user"))) as client:
        await refusal(
            client.certificates.CheckPermission(question("integrations/abc")), PermissionDenied, "ACCESS_DENIED"
        )


@pytest.mark.parametrize(
    ("fields", "at_fault"),
    [
        ({"peer_certificate": b""}, "peer_certificate"),
        ({"peer_certificate": b"x" * 65_537}, "peer_certificate"),
        ({"permission": permission_pb2.PERMISSION_UNSPECIFIED}, "permission"),
        ({"permission": 99}, "permission"),
        ({"resource": ""}, "resource"),
        ({"resource": "integrations/*"}, "resource"),
        ({"resource": "integrations/ä"}, "resource"),
        ({"resource": "integrations/a b"}, "resource"),
        ({"resource": "integrations/a\n"}, "resource"),
        ({"resource": "x" * 257}, "resource"),
        ({"peer_address": "x" * 65}, "peer_address"),
        ({"peer_address": "192.0.2.1\0"}, "peer_address"),
    ],
)
async def test_questions_that_do_not_fit_are_named(
    installation: Installation, fields: dict[str, Any], at_fault: str
) -> None:
    error = await refusal(
        decide(installation, **{"leaf": b"x", "resource": "integrations/echo"} | _leaf_too(fields)),
        InvalidArgument,
        "FIELD_INVALID",
    )
    assert [violation.field for violation in error.violations] == [at_fault]


def _leaf_too(fields: dict[str, Any]) -> dict[str, Any]:
    """As arguments of `decide`."""
    return {"leaf" if name == "peer_certificate" else name: value for name, value in fields.items()}


async def test_a_denial_can_be_explained_by_whoever_may_see_the_audit_log(installation: Installation) -> None:
    alice = await installation.new_user()
    identity = await installation.issue(alice)
    first = await decide(installation, identity.der, peer_address="192.0.2.9")
    for _ in range(4):
        again = await decide(installation, identity.der, peer_address="192.0.2.9")
        assert again.name == first.name, "equal denials share a record"
    request = authorization_service_pb2.ExplainDecisionRequest(name=first.name)
    record = await installation.admin.authorization.ExplainDecision(request)
    assert record.decision.reason == decision_pb2.DECISION_REASON_PERMISSION_MISSING
    assert record.decision.rule == first.rule
    assert record.decision.user == f"users/{alice}"
    assert record.decision.certificate == identity.name
    assert record.decision.resource == "integrations/echo"
    assert record.count == 5
    assert record.relying_party == "users/execution-server"
    assert record.peer_address == "192.0.2.9"
    async with installation.client(identity) as client:
        await refusal(client.authorization.ExplainDecision(request), PermissionDenied, "ACCESS_DENIED")
    for name in ("decisions/" + "0" * 26, "decisions/none"):
        missing = authorization_service_pb2.ExplainDecisionRequest(name=name)
        await refusal(installation.admin.authorization.ExplainDecision(missing), NotFound, "DECISION_NOT_FOUND")


async def test_denials_are_written_whatever_was_asked(installation: Installation) -> None:
    """What one peer brings along must not keep others' denials from being written."""
    leaf = (await installation.issue(await installation.new_user(password=PASSWORD))).der
    for address in ("::1", "fe80::1%eth0", "x\0y", "\N{SNOWMAN}" * 64, "'; --"):
        for username in ("nobody", "\0", "x" * 5000):
            credentials = decision_pb2.BasicCredentials(username=username, password="\0")
            try:
                await decide(installation, leaf, peer_address=address, basic_credentials=credentials)
            except HandclaspError as error:
                assert error.reason == "FIELD_INVALID"  # noqa: PT017 - either answer will do
    last = (await decide(installation, b"the last one")).name.removeprefix("decisions/")
    async with beside(installation) as database:

        async def written() -> bool:
            found = await database.read(
                lambda snapshot: snapshot.fetch(select(denials.c.id).where(denials.c.id == last))
            )
            return found.one_or_none() is not None

        while not await written():  # noqa: ASYNC110 - the test's own time limit ends it if it never is
            await asyncio.sleep(0.1)


async def test_a_leaf_of_a_trust_anchor_is_nobody_until_it_is_uploaded(
    installation: Installation, executions: str
) -> None:
    ca = await trusted_ca(installation)
    leaf = ca.issue()
    bob = await installation.new_user("regular-user")
    told = await call_both(installation, executions, held(leaf))
    # The execution server reads the bundle every now and then.
    while told[1] == "no connection":
        await asyncio.sleep(0.2)
        told = await call_both(installation, executions, held(leaf))
    assert [await explained(installation, one) for one in told] == ["UNKNOWN_CERTIFICATE"] * 2
    await upload(installation, bob, leaf)
    assert await call_both(installation, executions, held(leaf)) == ["ok", "ok"]
