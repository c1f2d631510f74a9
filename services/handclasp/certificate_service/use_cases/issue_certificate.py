"""Issues certificates, for a key that the caller holds or for one made here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

from handclasp.certificate_service.domain.certificates import Certificate, Origin
from handclasp.certificate_service.domain.identifiers import user_name
from handclasp.certificate_service.domain.permissions import Permission
from handclasp.certificate_service.storage.database import Transaction
from handclasp.certificate_service.use_cases.access import Access
from handclasp.certificate_service.use_cases.caller import Caller, Clock
from handclasp.certificate_service.use_cases.idempotency import RequestIdentity
from handclasp.certificate_service.use_cases.issuing import Issuing, Order
from handclasp.certificate_service.use_cases.owners import active_owner, check_is_relying_party
from handclasp.certificate_service.use_cases.readmission import readmitted
from handclasp.certificate_service.x509.issuing import KeyKind, generate_key, key_to_pem, parse_server_name
from handclasp.certificate_service.x509.signing_request import read_signing_request
from handclasp.errors import invalid_field

MAXIMUM_SERVER_NAMES = 20


class KeyCustody(StrEnum):
    """Where the private key of an issued certificate is."""

    CALLER_HELD = "CALLER_HELD"
    RETURNED = "RETURNED"
    KEY_NOT_RETAINED = "KEY_NOT_RETAINED"


@dataclass(frozen=True, slots=True)
class IssueRequest:
    """What to issue: for a signing request, or, with `generate_key`, for a key made here.

    Attributes:
        lifetime: the longest allowed if None.
        server_names: DNS names and IP addresses, for a relying party that is a server.
        identity: set if a retry is to return the same certificate.
    """

    user_id: str
    csr_pem: str | None = None
    csr_der: bytes | None = None
    generate_key: KeyKind | None = None
    lifetime: timedelta | None = None
    description: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    server_names: tuple[str, ...] = ()
    identity: RequestIdentity | None = None


@dataclass(frozen=True, slots=True)
class Issued:
    """What was issued; `private_key_pem` exactly if `custody` is RETURNED."""

    certificate: Certificate
    custody: KeyCustody
    private_key_pem: bytes | None = field(default=None, repr=False)


class IssueCertificate:
    """Issues to whomever the caller manages.

    Args:
        own_names: DNS names and IP addresses that clients call this service by.
    """

    def __init__(self, access: Access, issuing: Issuing, *, own_names: Sequence[str], clock: Clock) -> None:
        self._access = access
        self._issuing = issuing
        self._clock = clock
        self._own_names = frozenset(map(parse_server_name, own_names))

    async def issue(self, caller: Caller, request: IssueRequest) -> Issued:
        """Issues a certificate, and returns once it is on file; see `CertificateService.IssueCertificate`.

        Raises:
            InvalidArgument, NotFound, FailedPrecondition, AlreadyExists, PermissionDenied
        """
        self._require_may(caller, request)
        lifetime = self._issuing.lifetime(request.lifetime)
        own_name = not self._own_names.isdisjoint(_parse_server_names(request.server_names))
        if own_name:
            self._access.protect_own_names(caller, user_name(request.user_id))
        if request.generate_key is not None:
            key = generate_key(request.generate_key)
            private_key_pem: bytes | None = key_to_pem(key, None)
            public_key: CertificatePublicKeyTypes = key.public_key()
            origin, custody = Origin.GENERATED, KeyCustody.RETURNED
        else:
            public_key = read_signing_request(pem=request.csr_pem, der=request.csr_der)
            private_key_pem, origin, custody = None, Origin.SIGNED, KeyCustody.CALLER_HELD
        order = Order(
            user_id=request.user_id,
            public_key=public_key,
            origin=origin,
            lifetime=lifetime,
            description=request.description,
            labels=request.labels,
            server_names=request.server_names,
            identity=request.identity,
        )

        async def check(transaction: Transaction) -> None:
            acting = await readmitted(transaction, caller, self._clock())
            self._require_may(acting, request)
            if own_name:
                self._access.protect_own_names(acting, user_name(request.user_id))
            owner = await active_owner(transaction, request.user_id)
            self._access.protect(acting, owner)
            if request.server_names:
                check_is_relying_party(owner)

        filed = await self._issuing.issue(caller, order, check)
        if not filed.fresh:
            return Issued(
                filed.certificate,
                KeyCustody.KEY_NOT_RETAINED if custody is KeyCustody.RETURNED else KeyCustody.CALLER_HELD,
            )
        return Issued(filed.certificate, custody, private_key_pem)

    def _require_may(self, caller: Caller, request: IssueRequest) -> None:
        self._access.require_manages(caller, request.user_id)
        if request.server_names:
            self._access.require(caller, Permission.USER_MANAGEMENT, user_name(request.user_id))


def _parse_server_names(names: tuple[str, ...]) -> list[x509.DNSName | x509.IPAddress]:
    if len(names) > MAXIMUM_SERVER_NAMES:
        raise invalid_field("server_names", f"must be at most {MAXIMUM_SERVER_NAMES}, not {len(names)}")
    return [parse_server_name(name) for name in names]
