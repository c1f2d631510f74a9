"""A small stand-in for both services on real TLS: it signs, remembers what it was asked, and refuses on demand."""

from __future__ import annotations

import asyncio
import ipaddress
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID
from google.protobuf.empty_pb2 import Empty

from handclasp.accounts.v1 import account_service_pb2 as account_messages
from handclasp.accounts.v1 import account_service_pb2_grpc
from handclasp.accounts.v1.access_profile_pb2 import AccessProfile
from handclasp.accounts.v1.user_pb2 import User
from handclasp.authorization.v1 import authorization_service_pb2 as authorization_messages
from handclasp.authorization.v1 import authorization_service_pb2_grpc
from handclasp.authorization.v1.decision_pb2 import DECISION_REASON_REVOKED, Decision
from handclasp.authorization.v1.permission_pb2 import PERMISSION_EXECUTE_INTEGRATIONS, Grant
from handclasp.authorization.v1.refusal_pb2 import Refusal
from handclasp.certificates.v1 import certificate_service_pb2 as messages
from handclasp.certificates.v1 import certificate_service_pb2_grpc
from handclasp.certificates.v1.certificate_pb2 import Certificate, Hold, Revocation, TrustAnchor
from handclasp.certificates.v1.enrollment_token_pb2 import EnrollmentToken
from handclasp.errors import HandclaspError, PermissionDenied, Reason
from handclasp.errors.status import DETAILS_KEY, status_code, status_details
from handclasp.integrations.v1 import integration_service_pb2 as integration_messages
from handclasp.integrations.v1 import integration_service_pb2_grpc
from handclasp.integrations.v1.integration_pb2 import Integration
from tests.support.outside_ca import CLIENT_AUTH, SERVER_AUTH, Issued, OutsideCA, pem_of

TRUST_DOMAIN = "small.example"
TOKEN = "hce_a-small-one"
Context = grpc.aio.ServicerContext[Any, Any]


def server_certificate(ca: OutsideCA, *, not_after: datetime | None = None) -> Issued:
    """A server's certificate for localhost and 127.0.0.1."""
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    return ca.issue("server", purposes=(SERVER_AUTH,), alternative=names, not_after=not_after)


def one_way_tls(server: Issued) -> grpc.ServerCredentials:
    """Credentials of a server that wants no client certificate."""
    return grpc.ssl_server_credentials([(server.key_pem.encode(), server.pem.encode())])


@dataclass
class Seen:
    """A call that came in."""

    method: str
    request: Any
    authorization: str | None
    common_name: str
    """Of the certificate that was presented; empty without one."""
    seconds: float
    """Until the caller gives it up."""


@dataclass
class Small:
    """The stand-in, with its CA: a root, and an issuing CA below it."""

    root: OutsideCA = field(default_factory=lambda: OutsideCA("root"))
    seen: list[Seen] = field(default_factory=list)
    refuse: dict[str, list[HandclaspError | grpc.StatusCode]] = field(default_factory=dict)
    """What the next calls of a method are refused with, in order. A bare code: without the details of ours."""
    certificate_count: int = 3
    revocation: Revocation | None = None
    hold: Hold | None = None
    renewed_from: str = ""
    revoked_count: int = 2
    in_force: tuple[int, int, int, int] | None = (7, 2, 0, 0)
    """What is said of the barrier: the revision, how many acknowledged, how many leases ended."""
    seconds_in_force: float = 0.0
    enrolled_purposes: Sequence[x509.ObjectIdentifier] = (CLIENT_AUTH,)
    refusals: list[Refusal] = field(default_factory=list)
    explained: Decision = field(
        default_factory=lambda: Decision(
            reason=DECISION_REASON_REVOKED,
            rule="the certificate was revoked",
            permission=PERMISSION_EXECUTE_INTEGRATIONS,
            resource="integrations/echo",
        )
    )
    """How long the barrier takes."""
    presented: str = "c0"
    """The id of the certificate that callers present."""
    input_schema: dict[str, Any] = field(default_factory=dict)
    root_for_replicas: OutsideCA | None = None
    """What signs the CAs of replicas, if it is not the root."""
    more_authorities: list[str] = field(default_factory=list)
    issuing: OutsideCA = field(init=False)
    server: Issued = field(init=False)
    tls_port: int = 0
    mtls_port: int = 0

    def __post_init__(self) -> None:
        self.issuing = self.root.intermediate("issuing")
        self.server = server_certificate(self.issuing)

    @property
    def tls(self) -> str:
        return f"127.0.0.1:{self.tls_port}"

    @property
    def mtls(self) -> str:
        return f"127.0.0.1:{self.mtls_port}"

    @property
    def fingerprint(self) -> str:
        return self.root.certificate.fingerprint(hashes.SHA256()).hex()

    def asked(self, method: str) -> list[Seen]:
        return [seen for seen in self.seen if seen.method == method]

    async def note(self, method: str, request: Any, context: Context) -> None:
        metadata = dict(context.invocation_metadata() or ())
        authorization = metadata.get("authorization")
        names = (context.auth_context() or {}).get("x509_common_name", [])
        common_name = b"".join(names).decode()
        credentials = None if authorization is None else str(authorization)
        self.seen.append(Seen(method, request, credentials, common_name, context.time_remaining()))
        if not self.refuse.get(method):
            return
        refusal = self.refuse[method].pop(0)
        if isinstance(refusal, grpc.StatusCode):
            await context.abort(refusal, "made by something in between")
        else:
            trailer = ((DETAILS_KEY, status_details(refusal)),)
            await context.abort(status_code(refusal), refusal.message, trailing_metadata=trailer)

    async def barrier(self, context: Context) -> None:
        """Says that what was done is in force."""
        await asyncio.sleep(self.seconds_in_force)
        if self.in_force is not None:
            # Written out, since other clients read them by these names.
            names = ("handclasp-revision", "handclasp-acknowledged", "handclasp-leases-ended", "handclasp-rights-lost")
            context.set_trailing_metadata(tuple(zip(names, map(str, self.in_force), strict=True)))

    def described(self, user: str, leaf: x509.Certificate) -> Certificate:
        described = Certificate(
            name="certificates/c1",
            user=user,
            state=Certificate.STATE_ACTIVE,
            origin=Certificate.ORIGIN_SIGNED,
            serial=f"{leaf.serial_number:x}",
            fingerprint=leaf.fingerprint(hashes.SHA256()).hex(),
            pem=pem_of(leaf, self.issuing.certificate),
        )
        described.not_after.FromDatetime(leaf.not_valid_after_utc)
        return described


def _sign(
    ca: OutsideCA,
    common_name: str,
    csr: x509.CertificateSigningRequest,
    purposes: Sequence[x509.ObjectIdentifier] = (CLIENT_AUTH,),
) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(ca.name).public_key(csr.public_key())
    builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
    builder = builder.serial_number(0xABC123).not_valid_before(ca.now - timedelta(minutes=5))
    return builder.not_valid_after(ca.now + timedelta(days=1)).sign(ca.key, hashes.SHA256())


class _Certificates(certificate_service_pb2_grpc.CertificateServiceServicer):
    def __init__(self, small: Small) -> None:
        self._small = small

    async def IssueCertificate(  # noqa: N802 - the proto's name, here and below
        self, request: messages.IssueCertificateRequest, context: Context
    ) -> messages.IssueCertificateResponse:
        await self._small.note("IssueCertificate", request, context)
        before = [seen.request.request_id for seen in self._small.asked("IssueCertificate")[:-1]]
        repeated = request.request_id in before
        if request.WhichOneof("key_source") == "generate_key":
            made = self._small.issuing.issue(request.user.removeprefix("users/"))
            certificate = self._small.described(request.user, made.certificate)
            if repeated:
                return messages.IssueCertificateResponse(
                    certificate=certificate, key_custody=messages.KEY_CUSTODY_KEY_NOT_RETAINED
                )
            return messages.IssueCertificateResponse(
                certificate=certificate,
                private_key_pem=made.key_pem,
                key_custody=messages.KEY_CUSTODY_RETURNED,
            )
        csr = x509.load_pem_x509_csr(request.csr_pem.encode())
        leaf = _sign(self._small.issuing, request.user.removeprefix("users/"), csr)
        return messages.IssueCertificateResponse(
            certificate=self._small.described(request.user, leaf), key_custody=messages.KEY_CUSTODY_CALLER_HELD
        )

    async def UploadCertificate(  # noqa: N802
        self, request: messages.UploadCertificateRequest, context: Context
    ) -> Certificate:
        await self._small.note("UploadCertificate", request, context)
        return Certificate(name="certificates/up", user=request.user, origin=Certificate.ORIGIN_UPLOADED)

    async def GetCertificate(self, request: messages.GetCertificateRequest, context: Context) -> Certificate:  # noqa: N802
        await self._small.note("GetCertificate", request, context)
        return Certificate(
            name=request.name,
            user="users/alice",
            fingerprint="f" * 64,
            description="[bold]odd[/bold] \x1b[31mred",
            hold=self._small.hold,
            renewed_from=self._small.renewed_from,
            pem="-----BEGIN CERTIFICATE-----\nMAo=\n-----END CERTIFICATE-----\n",
        )

    async def ListCertificates(  # noqa: N802
        self, request: messages.ListCertificatesRequest, context: Context
    ) -> messages.ListCertificatesResponse:
        await self._small.note("ListCertificates", request, context)
        start = int(request.page_token or 0)
        end = min(start + min(request.page_size or 2, 2), self._small.certificate_count)
        return messages.ListCertificatesResponse(
            certificates=[
                Certificate(name=f"certificates/c{number}", user="users/alice") for number in range(start, end)
            ],
            next_page_token=str(end) if end < self._small.certificate_count else "",
        )

    async def UpdateCertificate(self, request: messages.UpdateCertificateRequest, context: Context) -> Certificate:  # noqa: N802
        await self._small.note("UpdateCertificate", request, context)
        return request.certificate

    async def RevokeCertificate(self, request: messages.RevokeCertificateRequest, context: Context) -> Certificate:  # noqa: N802
        await self._small.note("RevokeCertificate", request, context)
        await self._small.barrier(context)
        return Certificate(
            name=request.name, user="users/alice", state=Certificate.STATE_REVOKED, revocation=self._small.revocation
        )

    async def RevokeUserCertificates(  # noqa: N802
        self, request: messages.RevokeUserCertificatesRequest, context: Context
    ) -> messages.RevokeUserCertificatesResponse:
        await self._small.note("RevokeUserCertificates", request, context)
        await self._small.barrier(context)
        return messages.RevokeUserCertificatesResponse(revoked_count=self._small.revoked_count)

    async def HoldCertificate(self, request: messages.HoldCertificateRequest, context: Context) -> Certificate:  # noqa: N802
        await self._small.note("HoldCertificate", request, context)
        await self._small.barrier(context)
        return Certificate(
            name=request.name, user="users/alice", state=Certificate.STATE_ON_HOLD, hold=self._small.hold
        )

    async def ReinstateCertificate(  # noqa: N802
        self, request: messages.ReinstateCertificateRequest, context: Context
    ) -> Certificate:
        await self._small.note("ReinstateCertificate", request, context)
        await self._small.barrier(context)
        return Certificate(name=request.name, user="users/alice", state=Certificate.STATE_ACTIVE)

    async def RenewCertificate(self, request: messages.RenewCertificateRequest, context: Context) -> Certificate:  # noqa: N802
        await self._small.note("RenewCertificate", request, context)
        presented = f"certificates/{self._small.presented}"
        if request.name not in {"certificates/-", presented}:
            refusal = PermissionDenied(Reason.NOT_THE_HOLDER, "not yours")
            trailer = ((DETAILS_KEY, status_details(refusal)),)
            await context.abort(status_code(refusal), refusal.message, trailing_metadata=trailer)
        leaf = _sign(self._small.issuing, "alice", x509.load_pem_x509_csr(request.csr_pem.encode()))
        described = self._small.described("users/alice", leaf)
        described.renewed_from = presented
        return described

    async def CreateEnrollmentToken(  # noqa: N802
        self, request: messages.CreateEnrollmentTokenRequest, context: Context
    ) -> EnrollmentToken:
        await self._small.note("CreateEnrollmentToken", request, context)
        return EnrollmentToken(
            name="enrollmentTokens/t1",
            user=request.user,
            server_names=request.server_names,
            token=TOKEN,
            purpose=request.purpose,
        )

    async def ListEnrollmentTokens(  # noqa: N802
        self, request: messages.ListEnrollmentTokensRequest, context: Context
    ) -> messages.ListEnrollmentTokensResponse:
        await self._small.note("ListEnrollmentTokens", request, context)
        for_alice = EnrollmentToken(
            name="enrollmentTokens/t1", user="users/alice", server_names=["a.example"], created_by="users/clerk"
        )
        replica = EnrollmentToken(
            name="enrollmentTokens/t2", user="users/admin", purpose=EnrollmentToken.PURPOSE_REPLICA
        )
        return messages.ListEnrollmentTokensResponse(enrollment_tokens=[for_alice, replica])

    async def RevokeEnrollmentToken(  # noqa: N802
        self, request: messages.RevokeEnrollmentTokenRequest, context: Context
    ) -> Empty:
        await self._small.note("RevokeEnrollmentToken", request, context)
        return Empty()

    async def Enroll(self, request: messages.EnrollRequest, context: Context) -> Certificate:  # noqa: N802
        await self._small.note("Enroll", request, context)
        csr = x509.load_pem_x509_csr(request.csr_pem.encode())
        leaf = _sign(self._small.issuing, "alice", csr, self._small.enrolled_purposes)
        return self._small.described("users/alice", leaf)

    async def EnrollReplica(  # noqa: N802
        self, request: messages.EnrollReplicaRequest, context: Context
    ) -> messages.EnrollReplicaResponse:
        await self._small.note("EnrollReplica", request, context)
        made = _sign(
            self._small.root_for_replicas or self._small.root,
            "issuing",
            x509.load_pem_x509_csr(request.csr_pem.encode()),
        )
        return messages.EnrollReplicaResponse(
            trust_domain=TRUST_DOMAIN, authority=pem_of(made), root=self._small.root.pem
        )

    async def AddTrustAnchor(self, request: messages.AddTrustAnchorRequest, context: Context) -> TrustAnchor:  # noqa: N802
        await self._small.note("AddTrustAnchor", request, context)
        await self._small.barrier(context)
        return TrustAnchor(name="trustAnchors/t1", display_name=request.display_name)

    async def ListTrustAnchors(  # noqa: N802
        self, request: messages.ListTrustAnchorsRequest, context: Context
    ) -> messages.ListTrustAnchorsResponse:
        await self._small.note("ListTrustAnchors", request, context)
        return messages.ListTrustAnchorsResponse(trust_anchors=[TrustAnchor(name="trustAnchors/t1")])

    async def RemoveTrustAnchor(self, request: messages.RemoveTrustAnchorRequest, context: Context) -> Empty:  # noqa: N802
        await self._small.note("RemoveTrustAnchor", request, context)
        await self._small.barrier(context)
        return Empty()

    async def CheckPermission(self, request: messages.CheckPermissionRequest, context: Context) -> Decision:  # noqa: N802
        raise NotImplementedError

    async def CheckPeer(self, request: messages.CheckPeerRequest, context: Context) -> Decision:  # noqa: N802
        raise NotImplementedError

    async def BatchCheckPermissions(  # noqa: N802
        self, request: messages.BatchCheckPermissionsRequest, context: Context
    ) -> messages.BatchCheckPermissionsResponse:
        raise NotImplementedError

    async def GetTrustBundle(  # noqa: N802
        self, request: messages.GetTrustBundleRequest, context: Context
    ) -> messages.TrustBundle:
        await self._small.note("GetTrustBundle", request, context)
        authorities = [self._small.root.pem, self._small.issuing.pem, *self._small.more_authorities]
        return messages.TrustBundle(
            trust_domain=TRUST_DOMAIN, authorities=authorities, mutual_tls_port=self._small.mtls_port
        )


class _Accounts(account_service_pb2_grpc.AccountServiceServicer):
    def __init__(self, small: Small) -> None:
        self._small = small

    async def CreateUser(self, request: account_messages.CreateUserRequest, context: Context) -> User:  # noqa: N802
        await self._small.note("CreateUser", request, context)
        return User(name=f"users/{request.user_id}", access_profiles=request.user.access_profiles)

    async def GetUser(self, request: account_messages.GetUserRequest, context: Context) -> User:  # noqa: N802
        await self._small.note("GetUser", request, context)
        return User(name=request.name, state=User.STATE_ACTIVE)

    async def ListUsers(  # noqa: N802
        self, request: account_messages.ListUsersRequest, context: Context
    ) -> account_messages.ListUsersResponse:
        await self._small.note("ListUsers", request, context)
        return account_messages.ListUsersResponse(users=[User(name="users/alice", state=User.STATE_ACTIVE)])

    async def UpdateUser(self, request: account_messages.UpdateUserRequest, context: Context) -> User:  # noqa: N802
        await self._small.note("UpdateUser", request, context)
        await self._small.barrier(context)
        return request.user

    async def DisableUser(self, request: account_messages.DisableUserRequest, context: Context) -> User:  # noqa: N802
        await self._small.note("DisableUser", request, context)
        await self._small.barrier(context)
        return User(name=request.name, state=User.STATE_DISABLED)

    async def EnableUser(self, request: account_messages.EnableUserRequest, context: Context) -> User:  # noqa: N802
        await self._small.note("EnableUser", request, context)
        return User(name=request.name, state=User.STATE_ACTIVE)

    async def SetPassword(self, request: account_messages.SetPasswordRequest, context: Context) -> User:  # noqa: N802
        await self._small.note("SetPassword", request, context)
        await self._small.barrier(context)
        return User(name=request.name, has_password=True)

    async def CreateAccessProfile(  # noqa: N802
        self, request: account_messages.CreateAccessProfileRequest, context: Context
    ) -> AccessProfile:
        await self._small.note("CreateAccessProfile", request, context)
        return AccessProfile(name=f"accessProfiles/{request.access_profile_id}", grants=request.access_profile.grants)

    async def GetAccessProfile(  # noqa: N802
        self, request: account_messages.GetAccessProfileRequest, context: Context
    ) -> AccessProfile:
        await self._small.note("GetAccessProfile", request, context)
        grant = Grant(permission=PERMISSION_EXECUTE_INTEGRATIONS, resource_pattern="integrations/orders.*")
        return AccessProfile(name=request.name, grants=[grant])

    async def ListAccessProfiles(  # noqa: N802
        self, request: account_messages.ListAccessProfilesRequest, context: Context
    ) -> account_messages.ListAccessProfilesResponse:
        await self._small.note("ListAccessProfiles", request, context)
        profile = AccessProfile(name="accessProfiles/administrator", built_in=True)
        return account_messages.ListAccessProfilesResponse(access_profiles=[profile])

    async def UpdateAccessProfile(  # noqa: N802
        self, request: account_messages.UpdateAccessProfileRequest, context: Context
    ) -> AccessProfile:
        await self._small.note("UpdateAccessProfile", request, context)
        await self._small.barrier(context)
        return request.access_profile

    async def DeleteAccessProfile(  # noqa: N802
        self, request: account_messages.DeleteAccessProfileRequest, context: Context
    ) -> Empty:
        await self._small.note("DeleteAccessProfile", request, context)
        return Empty()


class _Authorization(authorization_service_pb2_grpc.AuthorizationServiceServicer):
    def __init__(self, small: Small) -> None:
        self._small = small

    async def ExplainDecision(  # noqa: N802
        self, request: authorization_messages.ExplainDecisionRequest, context: Context
    ) -> authorization_messages.DecisionRecord:
        await self._small.note("ExplainDecision", request, context)
        decision = Decision(name=request.name)
        decision.MergeFrom(self._small.explained)
        return authorization_messages.DecisionRecord(decision=decision, count=2)

    async def ListRefusals(  # noqa: N802
        self, request: authorization_messages.ListRefusalsRequest, context: Context
    ) -> authorization_messages.ListRefusalsResponse:
        await self._small.note("ListRefusals", request, context)
        return authorization_messages.ListRefusalsResponse(refusals=self._small.refusals)

    async def ReportRefusals(  # noqa: N802
        self, request: authorization_messages.ReportRefusalsRequest, context: Context
    ) -> authorization_messages.ReportRefusalsResponse:
        raise NotImplementedError

    def WatchAuthorization(  # noqa: N802
        self, requests: AsyncIterator[authorization_messages.WatchAuthorizationRequest], context: Context
    ) -> AsyncIterator[authorization_messages.WatchAuthorizationResponse]:
        raise NotImplementedError


class _Integrations(integration_service_pb2_grpc.IntegrationServiceServicer):
    def __init__(self, small: Small) -> None:
        self._small = small

    async def ListIntegrations(  # noqa: N802
        self, request: integration_messages.ListIntegrationsRequest, context: Context
    ) -> integration_messages.ListIntegrationsResponse:
        await self._small.note("ListIntegrations", request, context)
        return integration_messages.ListIntegrationsResponse(integrations=[Integration(name="integrations/echo")])

    async def GetIntegration(  # noqa: N802
        self, request: integration_messages.GetIntegrationRequest, context: Context
    ) -> Integration:
        await self._small.note("GetIntegration", request, context)
        integration = Integration(name=request.name, version="1.2.3")
        integration.input_schema.update(self._small.input_schema)
        return integration

    async def ExecuteIntegration(  # noqa: N802
        self, request: integration_messages.ExecuteIntegrationRequest, context: Context
    ) -> integration_messages.ExecuteIntegrationResponse:
        await self._small.note("ExecuteIntegration", request, context)
        if request.name == "integrations/slow":
            await asyncio.sleep(30)
        return integration_messages.ExecuteIntegrationResponse(
            integration=request.name,
            version="1.0.0",
            output_json="" if request.name == "integrations/empty" else request.input_json,
        )


@asynccontextmanager
async def serving(small: Small) -> AsyncIterator[Small]:
    """Serves on two ports, one-way TLS and mTLS, all services on both."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    certificate_service_pb2_grpc.add_CertificateServiceServicer_to_server(_Certificates(small), server)
    account_service_pb2_grpc.add_AccountServiceServicer_to_server(_Accounts(small), server)
    authorization_service_pb2_grpc.add_AuthorizationServiceServicer_to_server(_Authorization(small), server)
    integration_service_pb2_grpc.add_IntegrationServiceServicer_to_server(_Integrations(small), server)
    pairs = [(small.server.key_pem.encode(), small.server.pem.encode())]
    mutual = grpc.ssl_server_credentials(pairs, small.root.pem.encode(), require_client_auth=True)
    small.tls_port = server.add_secure_port("127.0.0.1:0", one_way_tls(small.server))
    small.mtls_port = server.add_secure_port("127.0.0.1:0", mutual)
    await server.start()
    try:
        yield small
    finally:
        await server.stop(None)


@contextmanager
def serving_in_thread(small: Small) -> Iterator[Small]:
    """The same, beside a test that is not asynchronous."""
    started, done = threading.Event(), asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def run() -> None:
        loops.append(asyncio.get_running_loop())
        async with serving(small):
            started.set()
            await done.wait()

    # Calls that are still in progress at the end are cancelled before the loop is closed.
    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    assert started.wait(20)
    try:
        yield small
    finally:
        loops[0].call_soon_threadsafe(done.set)
        thread.join(20)
