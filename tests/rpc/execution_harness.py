"""An execution server on real ports, and beside it a certificate service that answers as a test tells it to.

The certificate service is played by a real gRPC server over mutual TLS; only its decisions are the test's.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeAlias

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from google.protobuf.timestamp_pb2 import Timestamp

from handclasp.authorization.v1 import decision_pb2
from handclasp.authorization.v1.authorization_service_pb2_grpc import add_AuthorizationServiceServicer_to_server
from handclasp.certificates.v1 import certificate_pb2
from handclasp.certificates.v1 import certificate_service_pb2 as messages
from handclasp.certificates.v1.certificate_service_pb2_grpc import (
    CertificateServiceServicer,
    add_CertificateServiceServicer_to_server,
)
from handclasp.errors import HandclaspError
from handclasp.errors.status import DETAILS_KEY, status_code, status_details
from handclasp.integration_execution.main import serve
from handclasp.integration_execution.settings import ExecutionSettings
from handclasp.integrations.v1.integration_service_pb2_grpc import IntegrationServiceStub
from handclasp.serving.files import write_secret
from handclasp.transport.lifecycle import StopRequests
from handclasp.transport.server import ServerLimits, server_options
from tests.rpc.scripted_watch import ALTERED, WITHDRAWN, Effect, ScriptedWatches
from tests.support.outside_ca import CLIENT_AUTH, SERVER_AUTH, Issued, OutsideCA

Reason: TypeAlias = "decision_pb2.DecisionReason.ValueType"
ALLOWED = decision_pb2.DECISION_REASON_ALLOWED
PERMISSION_MISSING = decision_pb2.DECISION_REASON_PERMISSION_MISSING
UNKNOWN_CERTIFICATE = decision_pb2.DECISION_REASON_UNKNOWN_CERTIFICATE

USER = "users/alice"
PROFILE = "accessProfiles/regular-user"


def certificate_name(leaf: bytes) -> str:
    """What a leaf is called here."""
    return f"certificates/{hashlib.sha256(leaf).hexdigest()[:16]}"


NOT_ACCEPTED = {
    UNKNOWN_CERTIFICATE,
    decision_pb2.DECISION_REASON_REVOKED,
    decision_pb2.DECISION_REASON_ON_HOLD,
    decision_pb2.DECISION_REASON_EXPIRED,
    decision_pb2.DECISION_REASON_NOT_YET_VALID,
    decision_pb2.DECISION_REASON_USER_DISABLED,
    decision_pb2.DECISION_REASON_ANCHOR_REMOVED,
}
"""What stands against a peer, whatever it asks for."""


@dataclass
class ScriptedCertificateService(CertificateServiceServicer):
    """Knows leaves by their DER; what each may is a test's to say. Whoever changes that says so over the watch, as
    `take_away` does."""

    authorities: list[str]
    watches: ScriptedWatches
    trust_anchors: list[str] = field(default_factory=list)
    reasons: dict[bytes, Reason] = field(default_factory=dict)
    granted: dict[bytes, set[str]] = field(default_factory=dict)
    failure: grpc.StatusCode | None = None
    refusal: HandclaspError | None = None
    """Raised as the service itself would."""
    delay: float = 0.0
    answer_about: str | None = None
    """A resource that decisions are about, whatever was asked."""
    batch_loss: int = 0
    """How many decisions of a batch are left out."""
    peers: list[messages.CheckPeerRequest] = field(default_factory=list)
    checked: list[messages.CheckPermissionRequest] = field(default_factory=list)
    batches: list[messages.BatchCheckPermissionsRequest] = field(default_factory=list)
    bundles_read: int = 0
    lifetime: timedelta = timedelta(days=1)
    """Of what is allowed."""
    decided_at: int | None = None
    """The revision of decisions, if it is not that of the watch."""
    ca: OutsideCA | None = None
    """Signs what is renewed."""
    renewals: list[messages.RenewCertificateRequest] = field(default_factory=list)
    renewal_failure: grpc.StatusCode | None = None
    renewal_gate: asyncio.Event | None = None
    """If set, what is renewed waits for it before it leaves."""
    bundle_gate: asyncio.Event | None = None
    """If set, the bundle is read at once, and waits for it before it leaves."""
    gate: asyncio.Event | None = None
    """If set, answers are decided at once, and wait for it before they leave."""

    async def take_away(
        self, leaf: bytes, reason: Reason = decision_pb2.DECISION_REASON_REVOKED, effect: Effect = WITHDRAWN
    ) -> None:
        """A certificate is revoked, or worse; returns as the call that did it would."""
        self.reasons[leaf] = reason
        await self.watches.change((certificate_name(leaf), effect))

    async def grant(self, leaf: bytes, *resources: str) -> None:
        """From now on these, and no others, are granted; returns as the update of an access profile would."""
        self.granted[leaf] = set(resources)
        await self.watches.change((PROFILE, ALTERED))

    async def CheckPermission(  # noqa: N802
        self, request: messages.CheckPermissionRequest, context: Any
    ) -> decision_pb2.Decision:
        self.checked.append(request)
        await self._misbehave(context)
        decision = self._decide(request, request.resource)
        if self.gate is not None:
            await self.gate.wait()
        return decision

    async def BatchCheckPermissions(  # noqa: N802
        self, request: messages.BatchCheckPermissionsRequest, context: Any
    ) -> messages.BatchCheckPermissionsResponse:
        self.batches.append(request)
        await self._misbehave(context)
        decisions = [self._decide(request, resource) for resource in request.resources]
        return messages.BatchCheckPermissionsResponse(decisions=decisions[self.batch_loss :])

    async def CheckPeer(self, request: messages.CheckPeerRequest, context: Any) -> decision_pb2.Decision:  # noqa: N802
        self.peers.append(request)
        await self._misbehave(context)
        return self._decide(request)

    async def GetTrustBundle(  # noqa: N802
        self,
        request: messages.GetTrustBundleRequest,  # noqa: ARG002
        context: Any,
    ) -> messages.TrustBundle:
        await self._misbehave(context)
        self.bundles_read += 1
        bundle = messages.TrustBundle(
            trust_domain="example.test", authorities=self.authorities, trust_anchors=self.trust_anchors
        )
        if self.bundle_gate is not None:
            await self.bundle_gate.wait()
        return bundle

    async def RenewCertificate(  # noqa: N802
        self, request: messages.RenewCertificateRequest, context: Any
    ) -> certificate_pb2.Certificate:
        presented = x509.load_pem_x509_certificate(context.auth_context()["x509_pem_cert"][0])
        name = certificate_name(presented.public_bytes(Encoding.DER))
        assert request.name in {"certificates/-", name}
        self.renewals.append(request)
        if self.renewal_failure is not None:
            await context.abort(self.renewal_failure, "told not to renew")
        if self.renewal_gate is not None:
            await self.renewal_gate.wait()
        assert self.ca is not None
        public_key: Any = x509.load_pem_x509_csr(request.csr_pem.encode()).public_key()
        renewed = server_leaf(
            self.ca, "renewed", (None, datetime.now(UTC) + timedelta(days=60)), HasPublicKey(public_key)
        )
        self.reasons[renewed.der] = ALLOWED
        return certificate_pb2.Certificate(name=certificate_name(renewed.der), pem=renewed.pem)

    async def _misbehave(self, context: Any) -> None:
        await asyncio.sleep(self.delay)
        if self.failure is not None:
            await context.abort(self.failure, "told to fail")
        if self.refusal is not None:
            trailer = ((DETAILS_KEY, status_details(self.refusal)),)
            await context.abort(status_code(self.refusal), self.refusal.message, trailing_metadata=trailer)

    def _decide(
        self,
        request: messages.CheckPermissionRequest | messages.BatchCheckPermissionsRequest | messages.CheckPeerRequest,
        resource: str = "",
    ) -> decision_pb2.Decision:
        about_peer = isinstance(request, messages.CheckPeerRequest)
        reason = self.reasons.get(request.peer_certificate, UNKNOWN_CERTIFICATE)
        if about_peer and reason not in NOT_ACCEPTED:
            reason = ALLOWED
        granted = self.granted.get(request.peer_certificate)
        if reason == ALLOWED and granted is not None and resource not in granted and not about_peer:
            reason = decision_pb2.DECISION_REASON_RESOURCE_NOT_GRANTED
        now = Timestamp()
        now.FromDatetime(datetime.now(UTC))
        decision = decision_pb2.Decision(
            name="decisions/d1",
            allowed=reason == ALLOWED,
            reason=reason,
            rule="as the test says",
            user=USER,
            certificate=certificate_name(request.peer_certificate),
            resource=self.answer_about or resource,
            decide_time=now,
            revision=self.watches.revision if self.decided_at is None else self.decided_at,
        )
        if not isinstance(request, messages.CheckPeerRequest):
            decision.permission = request.permission
        if decision.allowed:
            decision.rests_on.extend([certificate_name(request.peer_certificate), USER])
            decision.rests_on.extend([] if about_peer else [PROFILE])
            decision.expire_time.FromDatetime(datetime.now(UTC) + self.lifetime)
        if reason == decision_pb2.DECISION_REASON_CREDENTIALS_THROTTLED:
            decision.retry_time.CopyFrom(now)
            decision.retry_time.seconds += 7
        return decision


@dataclass
class Pair:
    """Both services, and what it takes to call them."""

    service: ScriptedCertificateService
    ca: OutsideCA
    alice: Issued
    port: int
    health_port: int
    stack: AsyncExitStack

    async def stub(self, client: Issued | None = None) -> IntegrationServiceStub:
        """Over a connection of its own, so that each has a handshake of its own."""
        channel = await self.stack.enter_async_context(self.channel(client or self.alice))
        return IntegrationServiceStub(channel)

    def channel(self, client: Issued | None) -> grpc.aio.Channel:
        pair = (client.key_pem.encode(), client.pem.encode()) if client else (None, None)
        credentials = grpc.ssl_channel_credentials(self.ca.pem.encode(), *pair)
        options = [("grpc.use_local_subchannel_pool", 1)]
        return grpc.aio.secure_channel(f"127.0.0.1:{self.port}", credentials, options=options)


@dataclass(frozen=True)
class HasPublicKey:
    """In place of a private key that only somebody else has."""

    key: Any

    def public_key(self) -> Any:
        return self.key


def server_leaf(
    ca: OutsideCA,
    name: str,
    validity: tuple[datetime | None, datetime | None] = (None, None),
    key: Any = None,
) -> Issued:
    """A certificate for both sides of TLS on this machine."""
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    return ca.issue(
        name,
        key=key,
        not_before=validity[0],
        not_after=validity[1],
        purposes=(SERVER_AUTH, CLIENT_AUTH),
        alternative=names,
    )


@asynccontextmanager
async def certificate_service(
    ca: OutsideCA, port: int = 0, watches: ScriptedWatches | None = None
) -> AsyncIterator[tuple[ScriptedCertificateService, int]]:
    """The scripted service on a port of its own."""
    service = ScriptedCertificateService(  # type: ignore[abstract] # only what is called here
        authorities=[ca.pem],
        watches=watches or ScriptedWatches(),
        ca=ca,
    )
    server = grpc.aio.server(options=server_options(ServerLimits()))
    add_CertificateServiceServicer_to_server(service, server)
    add_AuthorizationServiceServicer_to_server(service.watches, server)
    leaf = server_leaf(ca, "certificates")
    credentials = grpc.ssl_server_credentials(
        [(leaf.key_pem.encode(), leaf.pem.encode())], ca.pem.encode(), require_client_auth=True
    )
    bound = server.add_secure_port(f"127.0.0.1:{port}", credentials)
    await server.start()
    try:
        yield service, bound
    finally:
        await server.stop(None)


def execution_settings(folder: Path, ca: OutsideCA, service_port: int, **more: Any) -> ExecutionSettings:
    """Settings of a server whose files are in the folder."""
    identity = server_leaf(ca, "executions")
    (folder / "ca.pem").write_text(ca.pem)
    (folder / "identity.pem").write_text(identity.pem)
    if not (folder / "identity-key.pem").exists():
        write_secret(folder / "identity-key.pem", identity.key_pem.encode())
    values: dict[str, Any] = {
        "port": 0,
        "health_port": 0,
        "certificate_service": f"127.0.0.1:{service_port}",
        "ca_file": folder / "ca.pem",
        "identity_cert": folder / "identity.pem",
        "identity_key": folder / "identity-key.pem",
        "ready_file": folder / "ready.json",
        "grace": 2,
    }
    return ExecutionSettings(**values | more)


async def until(condition: Callable[[], bool]) -> None:
    """Returns as soon as it is so; the test's own time limit ends it if it never is."""
    while not condition():  # noqa: ASYNC110 what is waited for is in files and other servers
        await asyncio.sleep(0.01)


async def wait_until_ready(ready_file: Path, serving: asyncio.Task[None]) -> dict[str, Any]:
    """What the ready file says, as soon as it is there."""

    def ready_or_failed() -> bool:
        return ready_file.exists() or serving.done()

    await until(ready_or_failed)
    if serving.done():
        await serving
        raise AssertionError("the server stopped before it was ready")
    ready: dict[str, Any] = json.loads(await asyncio.to_thread(ready_file.read_text))
    return ready


@asynccontextmanager
async def running_pair(folder: Path, **more: Any) -> AsyncIterator[Pair]:
    """Both services, with alice allowed everything."""
    ca = OutsideCA("Test CA")
    alice = ca.issue("alice")
    async with AsyncExitStack() as stack:
        service, service_port = await stack.enter_async_context(certificate_service(ca))
        service.reasons[alice.der] = ALLOWED
        settings = execution_settings(folder, ca, service_port, **more)
        stop = StopRequests()
        serving = asyncio.create_task(serve(settings, stop))
        try:
            assert settings.ready_file is not None
            ready = await wait_until_ready(settings.ready_file, serving)
            async with AsyncExitStack() as channels:
                yield Pair(service, ca, alice, ready["port"], ready["health_port"], channels)
        finally:
            stop.request()
            await serving
