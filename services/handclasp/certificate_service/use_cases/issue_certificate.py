"""Issues certificates, for a key that the caller holds or for one made here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum

import structlog
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

from handclasp.certificate_service.domain.certificates import Certificate, Origin
from handclasp.certificate_service.domain.changes import Effect
from handclasp.certificate_service.domain.decisions import UserFacts
from handclasp.certificate_service.domain.identifiers import certificate_name, user_name
from handclasp.certificate_service.domain.permissions import Permission
from handclasp.certificate_service.storage.certificates import add_certificate
from handclasp.certificate_service.storage.database import Database, Transaction
from handclasp.certificate_service.use_cases.access import Access
from handclasp.certificate_service.use_cases.caller import Caller, Clock
from handclasp.certificate_service.use_cases.idempotency import RequestIdentity, once
from handclasp.certificate_service.use_cases.on_file import certificate_on_file
from handclasp.certificate_service.use_cases.owners import active_owner
from handclasp.certificate_service.x509.issuing import (
    Authority,
    KeyKind,
    LeafSubject,
    generate_key,
    issue_leaf,
    key_to_pem,
    parse_server_name,
)
from handclasp.certificate_service.x509.signing_request import read_signing_request
from handclasp.errors import Reason, invalid_field

_LOG = structlog.stdlib.get_logger(__name__)

MAXIMUM_SERVER_NAMES = 20
MINIMUM_LIFETIME = timedelta(minutes=1)


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
    """Signs with the issuing CA.

    Args:
        maximum_lifetime: the longest lifetime a caller may ask for.
        own_names: DNS names and IP addresses that clients call this service by.
    """

    def __init__(
        self,
        database: Database,
        access: Access,
        authority: Authority,
        *,
        trust_domain: str,
        maximum_lifetime: timedelta,
        own_names: Sequence[str],
        clock: Clock,
    ) -> None:
        self._database = database
        self._access = access
        self._authority = authority
        self._trust_domain = trust_domain
        self._maximum_lifetime = maximum_lifetime
        self._own_names = frozenset(map(parse_server_name, own_names))
        self._clock = clock

    async def issue(self, caller: Caller, request: IssueRequest) -> Issued:
        """Issues a certificate, and returns once it is on file; see `CertificateService.IssueCertificate`.

        Raises:
            InvalidArgument, NotFound, FailedPrecondition, AlreadyExists, PermissionDenied
        """
        resource = user_name(request.user_id)
        self._access.require_manages(caller, request.user_id)
        if request.server_names:
            self._access.require(caller, Permission.USER_MANAGEMENT, resource)
        lifetime = self._lifetime(request.lifetime)
        if not self._own_names.isdisjoint(_parse_server_names(request.server_names)):
            self._access.protect_own_names(caller, resource)
        if request.generate_key is not None:
            key = generate_key(request.generate_key)
            private_key_pem: bytes | None = key_to_pem(key, None)
            public_key: CertificatePublicKeyTypes = key.public_key()
            origin, custody = Origin.GENERATED, KeyCustody.RETURNED
        else:
            public_key = read_signing_request(pem=request.csr_pem, der=request.csr_der)
            private_key_pem, origin, custody = None, Origin.SIGNED, KeyCustody.CALLER_HELD
        now = self._clock()
        leaf = issue_leaf(
            self._authority,
            subject=LeafSubject(request.user_id, self._trust_domain, request.server_names),
            public_key=public_key,
            now=now,
            lifetime=lifetime,
        )
        fresh = certificate_on_file(
            leaf,
            user_id=request.user_id,
            origin=origin,
            caller=caller,
            now=now,
            description=request.description,
            labels=request.labels,
        )

        async def put_on_file(transaction: Transaction) -> Certificate:
            owner = await active_owner(transaction, request.user_id)
            self._access.protect(caller, owner)
            if request.server_names:
                _check_is_relying_party(owner)
            await add_certificate(transaction, fresh)
            transaction.touch(certificate_name(fresh.id), Effect.GIVEN)
            return fresh

        def log(certificate: Certificate) -> None:
            if certificate.id != fresh.id:
                return
            _LOG.info(
                "certificate_issued",
                certificate=certificate_name(certificate.id),
                user=resource,
                origin=origin.value,
                serial=certificate.serial,
                fingerprint=certificate.fingerprint,
                not_after=certificate.not_after.isoformat(),
                by=caller.user,
                with_certificate=certificate_name(caller.certificate_id),
                peer_address=caller.address,
            )

        certificate = await self._database.write(
            lambda transaction: once(
                transaction, caller.user_id, request.identity, now, lambda: put_on_file(transaction)
            ),
            log,
        )
        if certificate.id != fresh.id:
            return Issued(
                certificate,
                KeyCustody.KEY_NOT_RETAINED if custody is KeyCustody.RETURNED else KeyCustody.CALLER_HELD,
            )
        return Issued(certificate, custody, private_key_pem)

    def _lifetime(self, wanted: timedelta | None) -> timedelta:
        if wanted is None:
            return self._maximum_lifetime
        if not MINIMUM_LIFETIME <= wanted <= self._maximum_lifetime:
            raise invalid_field(
                "lifetime",
                f"must be between {MINIMUM_LIFETIME} and {self._maximum_lifetime}",
                Reason.LIFETIME_NOT_ACCEPTED,
            )
        return wanted


def _parse_server_names(names: tuple[str, ...]) -> list[x509.DNSName | x509.IPAddress]:
    if len(names) > MAXIMUM_SERVER_NAMES:
        raise invalid_field("server_names", f"must be at most {MAXIMUM_SERVER_NAMES}, not {len(names)}")
    return [parse_server_name(name) for name in names]


def _check_is_relying_party(owner: UserFacts) -> None:
    if not any(item.grant.permission is Permission.AUTHORIZE_PEERS for item in owner.grants):
        raise invalid_field(
            "server_names",
            f"are for relying parties only, and {user_name(owner.id)} lacks AUTHORIZE_PEERS; give it an access profile"
            " such as relying-party",
        )
