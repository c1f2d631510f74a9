"""Issues certificates, for a key that the caller holds or for one made here."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum

from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

from handclasp.certificate_service.domain.certificates import Certificate, Origin
from handclasp.certificate_service.storage.database import Transaction
from handclasp.certificate_service.use_cases.caller import Caller
from handclasp.certificate_service.use_cases.idempotency import RequestIdentity
from handclasp.certificate_service.use_cases.issuing import Issuing, Order
from handclasp.certificate_service.use_cases.issuing_rights import IssuingRights
from handclasp.certificate_service.x509.issuing import KeyKind, generate_key, key_to_pem
from handclasp.certificate_service.x509.signing_request import read_signing_request


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
    """Issues to whomever the caller manages."""

    def __init__(self, rights: IssuingRights, issuing: Issuing) -> None:
        self._rights = rights
        self._issuing = issuing

    async def issue(self, caller: Caller, request: IssueRequest) -> Issued:
        """Issues a certificate, and returns once it is on file; see `CertificateService.IssueCertificate`.

        Raises:
            InvalidArgument, NotFound, FailedPrecondition, AlreadyExists, PermissionDenied
        """
        self._rights.require(caller, request.user_id, request.server_names)
        lifetime = self._issuing.lifetime(request.lifetime)
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

        async def check(transaction: Transaction) -> Collection[str]:
            return await self._rights.require_in_transaction(transaction, caller, request.user_id, request.server_names)

        filed = await self._issuing.issue(caller, order, check)
        if not filed.fresh:
            return Issued(
                filed.certificate,
                KeyCustody.KEY_NOT_RETAINED if custody is KeyCustody.RETURNED else KeyCustody.CALLER_HELD,
            )
        return Issued(filed.certificate, custody, private_key_pem)
