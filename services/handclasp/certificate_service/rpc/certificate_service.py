"""`handclasp.certificates.v1.CertificateService`."""

from __future__ import annotations

import copy
import functools
import hashlib
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypedDict

import grpc
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from handclasp.authorization.v1 import decision_pb2
from handclasp.certificate_service.domain.certificates import Certificate
from handclasp.certificate_service.domain.enrollment_tokens import Purpose
from handclasp.certificate_service.domain.identifiers import (
    parse_certificate_name,
    parse_enrollment_token_name,
    parse_trust_anchor_name,
    parse_user_name,
)
from handclasp.certificate_service.domain.permissions import check_resource
from handclasp.certificate_service.rpc.admission import the_caller, the_caller_if_known
from handclasp.certificate_service.rpc.authorization_messages import PERMISSIONS, from_decision
from handclasp.certificate_service.rpc.barrier_metadata import in_force
from handclasp.certificate_service.rpc.certificate_messages import (
    PURPOSES,
    REVOCATION_REASONS,
    from_anchor,
    from_certificate,
    from_made_token,
    from_token,
    to_filter,
)
from handclasp.certificate_service.rpc.fields import masked, to_timedelta, to_timestamp
from handclasp.certificate_service.use_cases.caller import Clock, Credentials
from handclasp.certificate_service.use_cases.certificates import Certificates
from handclasp.certificate_service.use_cases.check_permission import CheckPermission, PeerQuestion, PermissionQuestion
from handclasp.certificate_service.use_cases.enroll import Enroll
from handclasp.certificate_service.use_cases.enroll_replica import EnrollReplica
from handclasp.certificate_service.use_cases.enrollment_tokens import EnrollmentTokens
from handclasp.certificate_service.use_cases.idempotency import RequestIdentity, check_request_id
from handclasp.certificate_service.use_cases.issue_certificate import (
    IssueCertificate,
    IssueRequest,
    KeyCustody,
)
from handclasp.certificate_service.use_cases.issuer_chains import IssuerChains
from handclasp.certificate_service.use_cases.pages import PageRequest, list_hash
from handclasp.certificate_service.use_cases.recognized_tokens import Sender
from handclasp.certificate_service.use_cases.renew_certificate import RenewCertificate, RenewRequest
from handclasp.certificate_service.use_cases.trust_anchors import TrustAnchors
from handclasp.certificate_service.use_cases.trust_bundle import CurrentTrustBundle
from handclasp.certificate_service.use_cases.upload_certificate import (
    PossessionProof,
    UploadCertificate,
    UploadRequest,
)
from handclasp.certificate_service.x509.fingerprints import fingerprint
from handclasp.certificate_service.x509.issuing import KeyKind
from handclasp.certificates.v1 import certificate_pb2, enrollment_token_pb2
from handclasp.certificates.v1 import certificate_service_pb2 as pb
from handclasp.certificates.v1.certificate_service_pb2_grpc import CertificateServiceServicer
from handclasp.errors import invalid_field
from handclasp.serving.interceptor import current_peer

Context = grpc.aio.ServicerContext[Any, Any]

MAXIMUM_RESOURCES = 100
_MAXIMUM_LEAF = 64 * 1024
_MAXIMUM_ADDRESS = 64
_PRESENTED = "certificates/-"
_ENROLL = "/handclasp.certificates.v1.CertificateService/Enroll"
_ENROLL_REPLICA = "/handclasp.certificates.v1.CertificateService/EnrollReplica"

_KEY_KINDS: dict[int, KeyKind] = {
    pb.KEY_ALGORITHM_UNSPECIFIED: "EC P-256",
    pb.KEY_ALGORITHM_EC_P256: "EC P-256",
    pb.KEY_ALGORITHM_EC_P384: "EC P-384",
}
_CUSTODIES = {
    KeyCustody.CALLER_HELD: pb.KEY_CUSTODY_CALLER_HELD,
    KeyCustody.RETURNED: pb.KEY_CUSTODY_RETURNED,
    KeyCustody.KEY_NOT_RETAINED: pb.KEY_CUSTODY_KEY_NOT_RETAINED,
}


@dataclass(frozen=True, slots=True)
class UseCases:
    """What the service can do."""

    issue: IssueCertificate
    renew: RenewCertificate
    upload: UploadCertificate
    enrollment_tokens: EnrollmentTokens
    enroll: Enroll
    enroll_replica: EnrollReplica
    certificates: Certificates
    check: CheckPermission
    anchors: TrustAnchors
    bundle: CurrentTrustBundle
    chains: IssuerChains


class CertificateService(CertificateServiceServicer):
    """Needs `CallInterceptor` around it, which maps typed errors and provides the caller."""

    def __init__(
        self, use_cases: UseCases, *, trust_domain: str, clock: Clock, mutual_tls_port: Callable[[], int]
    ) -> None:
        self._do = use_cases
        self._trust_domain = trust_domain
        self._clock = clock
        self._mutual_tls_port = mutual_tls_port

    async def IssueCertificate(
        self, request: pb.IssueCertificateRequest, context: Context
    ) -> pb.IssueCertificateResponse:
        source = request.WhichOneof("key_source")
        if source is None:
            raise invalid_field("key_source", "must be one of csr_pem, csr_der and generate_key")
        if source == "generate_key" and request.generate_key not in _KEY_KINDS:
            raise invalid_field("generate_key", "must be KEY_ALGORITHM_EC_P256 or KEY_ALGORITHM_EC_P384")
        lifetime = to_timedelta(request.lifetime, "lifetime") if request.HasField("lifetime") else None
        issued = await self._do.issue.issue(
            the_caller(),
            IssueRequest(
                user_id=parse_user_name(request.user, "user"),
                csr_pem=request.csr_pem if source == "csr_pem" else None,
                csr_der=request.csr_der if source == "csr_der" else None,
                generate_key=_KEY_KINDS[request.generate_key] if source == "generate_key" else None,
                lifetime=lifetime,
                description=request.description,
                labels=request.labels,
                server_names=tuple(request.server_names),
                identity=_identity("IssueCertificate", request),
            ),
        )
        return pb.IssueCertificateResponse(
            certificate=await self._message(issued.certificate),
            private_key_pem="" if issued.private_key_pem is None else issued.private_key_pem.decode("ascii"),
            key_custody=_CUSTODIES[issued.custody],
        )

    async def UploadCertificate(
        self, request: pb.UploadCertificateRequest, context: Context
    ) -> certificate_pb2.Certificate:
        source = request.WhichOneof("certificate")
        if source is None:
            raise invalid_field("certificate", "must be pem or der")
        proof = None
        if request.HasField("possession_proof"):
            proof = PossessionProof(request.possession_proof.statement, request.possession_proof.signature)
        certificate = await self._do.upload.upload(
            the_caller(),
            UploadRequest(
                user_id=parse_user_name(request.user, "user"),
                pem=request.pem if source == "pem" else None,
                der=request.der if source == "der" else None,
                proof=proof,
                description=request.description,
                labels=request.labels,
                identity=_identity("UploadCertificate", request),
            ),
        )
        return await self._message(certificate)

    async def GetCertificate(self, request: pb.GetCertificateRequest, context: Context) -> certificate_pb2.Certificate:
        return await self._message(await self._do.certificates.get(the_caller(), parse_certificate_name(request.name)))

    async def ListCertificates(
        self, request: pb.ListCertificatesRequest, context: Context
    ) -> pb.ListCertificatesResponse:
        wanted = to_filter(request)
        with_pem = request.view == pb.CERTIFICATE_VIEW_FULL
        page = await self._do.certificates.list(
            the_caller(),
            wanted,
            PageRequest(
                request.page_size,
                request.page_token,
                list_hash("certificates", _without(request, "page_size", "page_token", "view").hex()),
            ),
        )
        return pb.ListCertificatesResponse(
            certificates=[await self._message(certificate, with_pem=with_pem) for certificate in page.items],
            next_page_token=page.next_token,
        )

    async def UpdateCertificate(
        self, request: pb.UpdateCertificateRequest, context: Context
    ) -> certificate_pb2.Certificate:
        sent = request.certificate
        certificate_id = parse_certificate_name(sent.name, "certificate.name")
        changes = masked(request.update_mask, ("description", "labels"), sent)
        certificate = await self._do.certificates.update(
            the_caller(),
            certificate_id,
            description=sent.description if "description" in changes else None,
            labels=sent.labels if "labels" in changes else None,
        )
        return await self._message(certificate)

    async def RevokeCertificate(
        self, request: pb.RevokeCertificateRequest, context: Context
    ) -> certificate_pb2.Certificate:
        revoked = await self._do.certificates.revoke(
            the_caller(),
            parse_certificate_name(request.name),
            REVOCATION_REASONS.to_domain(request.reason, "reason"),
        )
        return await self._message(in_force(revoked, context))

    async def RevokeUserCertificates(
        self, request: pb.RevokeUserCertificatesRequest, context: Context
    ) -> pb.RevokeUserCertificatesResponse:
        revoked = await self._do.certificates.revoke_all(
            the_caller(),
            parse_user_name(request.user, "user"),
            REVOCATION_REASONS.to_domain(request.reason, "reason"),
        )
        return pb.RevokeUserCertificatesResponse(revoked_count=in_force(revoked, context))

    async def HoldCertificate(
        self, request: pb.HoldCertificateRequest, context: Context
    ) -> certificate_pb2.Certificate:
        held = await self._do.certificates.hold(the_caller(), parse_certificate_name(request.name))
        return await self._message(in_force(held, context))

    async def ReinstateCertificate(
        self, request: pb.ReinstateCertificateRequest, context: Context
    ) -> certificate_pb2.Certificate:
        reinstated = await self._do.certificates.reinstate(the_caller(), parse_certificate_name(request.name))
        return await self._message(in_force(reinstated, context))

    async def RenewCertificate(
        self, request: pb.RenewCertificateRequest, context: Context
    ) -> certificate_pb2.Certificate:
        source = request.WhichOneof("key_source")
        if source is None:
            raise invalid_field("key_source", "must be csr_pem or csr_der")
        successor = await self._do.renew.renew(
            the_caller(),
            RenewRequest(
                certificate_id=None if request.name == _PRESENTED else parse_certificate_name(request.name),
                csr_pem=request.csr_pem if source == "csr_pem" else None,
                csr_der=request.csr_der if source == "csr_der" else None,
                lifetime=to_timedelta(request.lifetime, "lifetime") if request.HasField("lifetime") else None,
                identity=_identity("RenewCertificate", request),
            ),
        )
        return await self._message(successor)

    async def CreateEnrollmentToken(
        self, request: pb.CreateEnrollmentTokenRequest, context: Context
    ) -> enrollment_token_pb2.EnrollmentToken:
        purpose = PURPOSES.to_domain(request.purpose, "purpose")
        lifetime = to_timedelta(request.lifetime, "lifetime") if request.HasField("lifetime") else None
        if purpose is Purpose.REPLICA:
            for field in ("user", "server_names"):
                if getattr(request, field):
                    raise invalid_field(field, "must be empty for a replica")
            return from_made_token(await self._do.enrollment_tokens.create_for_replica(the_caller(), lifetime=lifetime))
        made = await self._do.enrollment_tokens.create(
            the_caller(),
            parse_user_name(request.user, "user"),
            server_names=tuple(request.server_names),
            lifetime=lifetime,
        )
        return from_made_token(made)

    async def ListEnrollmentTokens(
        self, request: pb.ListEnrollmentTokensRequest, context: Context
    ) -> pb.ListEnrollmentTokensResponse:
        user_id = parse_user_name(request.user, "user") if request.user else None
        wanted = PageRequest(request.page_size, request.page_token, list_hash("enrollment_tokens", user_id))
        page = await self._do.enrollment_tokens.list(the_caller(), user_id, wanted)
        return pb.ListEnrollmentTokensResponse(
            enrollment_tokens=map(from_token, page.items), next_page_token=page.next_token
        )

    async def RevokeEnrollmentToken(self, request: pb.RevokeEnrollmentTokenRequest, context: Context) -> Empty:
        await self._do.enrollment_tokens.revoke(the_caller(), parse_enrollment_token_name(request.name))
        return Empty()

    async def Enroll(self, request: pb.EnrollRequest, context: Context) -> certificate_pb2.Certificate:
        certificate = await self._do.enroll.enroll(
            request.token, **_signing_request(request), sender=Sender(current_peer().address, _ENROLL)
        )
        return await self._message(certificate)

    async def EnrollReplica(self, request: pb.EnrollReplicaRequest, context: Context) -> pb.EnrollReplicaResponse:
        enrolled = await self._do.enroll_replica.enroll(
            request.token, **_signing_request(request), sender=Sender(current_peer().address, _ENROLL_REPLICA)
        )
        joined = in_force(enrolled, context)
        return pb.EnrollReplicaResponse(
            trust_domain=self._trust_domain,
            authority=ssl.DER_cert_to_PEM_cert(joined.authority),
            root=ssl.DER_cert_to_PEM_cert(joined.root),
        )

    async def CheckPermission(self, request: pb.CheckPermissionRequest, context: Context) -> decision_pb2.Decision:
        question = _question(request, [check_resource(request.resource, "resource")])
        return from_decision((await self._do.check.check(the_caller(), question))[0])

    async def CheckPeer(self, request: pb.CheckPeerRequest, context: Context) -> decision_pb2.Decision:
        _check_peer_fields(request)
        question = PeerQuestion(fingerprint(request.peer_certificate), request.peer_address, request.min_revision)
        return from_decision(await self._do.check.check_peer(the_caller(), question))

    async def BatchCheckPermissions(
        self, request: pb.BatchCheckPermissionsRequest, context: Context
    ) -> pb.BatchCheckPermissionsResponse:
        if not 1 <= len(request.resources) <= MAXIMUM_RESOURCES:
            raise invalid_field("resources", f"must be 1 to {MAXIMUM_RESOURCES}, not {len(request.resources)}")
        resources = [check_resource(name, f"resources.{index}") for index, name in enumerate(request.resources)]
        decisions = await self._do.check.check(the_caller(), _question(request, resources))
        return pb.BatchCheckPermissionsResponse(decisions=map(from_decision, decisions))

    async def AddTrustAnchor(self, request: pb.AddTrustAnchorRequest, context: Context) -> certificate_pb2.TrustAnchor:
        source = request.WhichOneof("certificate")
        if source is None:
            raise invalid_field("certificate", "must be pem or der")
        added = await self._do.anchors.add(
            the_caller(),
            pem=request.pem if source == "pem" else None,
            der=request.der if source == "der" else None,
            display_name=request.display_name,
        )
        return from_anchor(in_force(added, context))

    async def ListTrustAnchors(
        self, request: pb.ListTrustAnchorsRequest, context: Context
    ) -> pb.ListTrustAnchorsResponse:
        wanted = PageRequest(request.page_size, request.page_token, list_hash("trust_anchors"))
        page = await self._do.anchors.list(the_caller(), wanted)
        return pb.ListTrustAnchorsResponse(trust_anchors=map(from_anchor, page.items), next_page_token=page.next_token)

    async def RemoveTrustAnchor(self, request: pb.RemoveTrustAnchorRequest, context: Context) -> Empty:
        removed = await self._do.anchors.remove(the_caller(), parse_trust_anchor_name(request.name))
        in_force(removed, context)
        return Empty()

    async def GetTrustBundle(self, request: pb.GetTrustBundleRequest, context: Context) -> pb.TrustBundle:
        caller = the_caller_if_known()
        sees_anchors = caller is not None and self._do.anchors.sees_anchors(caller)
        bundle = await self._do.bundle.read()
        return pb.TrustBundle(
            trust_domain=self._trust_domain,
            authorities=_pems(bundle.authorities),
            trust_anchors=_pems(bundle.anchors) if sees_anchors else (),
            # Also of one that is kept: that nothing has changed since was looked at just now.
            read_time=to_timestamp(self._clock()),
            mutual_tls_port=self._mutual_tls_port(),
        )

    async def _message(self, certificate: Certificate, *, with_pem: bool = True) -> certificate_pb2.Certificate:
        chain = await self._do.chains.of(certificate) if with_pem else None
        return from_certificate(certificate, now=self._clock(), chain=chain)


class _SigningRequest(TypedDict):
    """A certificate signing request, as PEM or as DER."""

    csr_pem: str | None
    csr_der: bytes | None


def _signing_request(request: pb.EnrollRequest | pb.EnrollReplicaRequest) -> _SigningRequest:
    """Raises InvalidArgument if there is none."""
    source = request.WhichOneof("key_source")
    if source is None:
        raise invalid_field("key_source", "must be csr_pem or csr_der")
    return {
        "csr_pem": request.csr_pem if source == "csr_pem" else None,
        "csr_der": request.csr_der if source == "csr_der" else None,
    }


def _is_printable_ascii(text: str) -> bool:
    return text.isascii() and text.isprintable()


# Anybody may ask for the bundle, as often as they like. What comes out follows from what goes in alone.
@functools.lru_cache(maxsize=4)
def _pems(ders: tuple[bytes, ...]) -> tuple[str, ...]:
    return tuple(map(ssl.DER_cert_to_PEM_cert, ders))


def _question(
    request: pb.CheckPermissionRequest | pb.BatchCheckPermissionsRequest, resources: list[str]
) -> PermissionQuestion:
    """Raises InvalidArgument for a field that does not fit."""
    _check_peer_fields(request)
    credentials = None
    if request.HasField("basic_credentials"):
        credentials = Credentials(request.basic_credentials.username, request.basic_credentials.password)
    return PermissionQuestion(
        fingerprint(request.peer_certificate),
        request.peer_address,
        request.min_revision,
        credentials=credentials,
        permission=PERMISSIONS.to_domain(request.permission, "permission"),
        resources=resources,
    )


def _check_peer_fields(
    request: pb.CheckPermissionRequest | pb.BatchCheckPermissionsRequest | pb.CheckPeerRequest,
) -> None:
    """Raises InvalidArgument for what does not fit of the peer's certificate and address."""
    if not 1 <= len(request.peer_certificate) <= _MAXIMUM_LEAF:
        raise invalid_field("peer_certificate", f"must be the leaf's DER, of 1 to {_MAXIMUM_LEAF} bytes")
    # It is recorded with denials, and PostgreSQL takes no NUL.
    if len(request.peer_address) > _MAXIMUM_ADDRESS or not _is_printable_ascii(request.peer_address):
        raise invalid_field(
            "peer_address", f"must be an IP address, of at most {_MAXIMUM_ADDRESS} printable ASCII characters"
        )


def _identity(
    method: str, request: pb.IssueCertificateRequest | pb.UploadCertificateRequest | pb.RenewCertificateRequest
) -> RequestIdentity | None:
    """What makes a retry the same request: everything but the id, and but the proof, which is dated."""
    if not request.request_id:
        return None
    content = _without(request, "request_id", "possession_proof")
    return RequestIdentity(method, check_request_id(request.request_id), hashlib.sha256(content).hexdigest())


def _without(request: Message, *fields: str) -> bytes:
    """A request as bytes that are the same for equal ones, less some fields."""
    rest = copy.copy(request)
    for field in fields:
        if field in request.DESCRIPTOR.fields_by_name:
            rest.ClearField(field)
    return rest.SerializeToString(deterministic=True)
