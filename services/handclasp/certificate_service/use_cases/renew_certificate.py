"""Issues successors of certificates, to whoever presents the one that is renewed."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from cryptography import x509

from handclasp.certificate_service.domain.certificates import Certificate, CertificateState, Origin
from handclasp.certificate_service.domain.identifiers import certificate_name
from handclasp.certificate_service.storage.certificates import find_certificate
from handclasp.certificate_service.storage.database import Database, Snapshot, Transaction
from handclasp.certificate_service.storage.server_names import vouched_names_of
from handclasp.certificate_service.use_cases.caller import Caller, Clock
from handclasp.certificate_service.use_cases.certificates import certificate_not_found
from handclasp.certificate_service.use_cases.idempotency import RequestIdentity
from handclasp.certificate_service.use_cases.issuing import Issuing, Order
from handclasp.certificate_service.use_cases.issuing_rights import IssuingRights
from handclasp.certificate_service.use_cases.owners import active_owner
from handclasp.certificate_service.x509.issuing import BACKDATED, server_names_of
from handclasp.certificate_service.x509.signing_request import read_signing_request
from handclasp.errors import FailedPrecondition, PermissionDenied, Reason, invalid_field


@dataclass(frozen=True, slots=True)
class RenewRequest:
    """What to renew, and for which key.

    Attributes:
        certificate_id: None for the one that the caller presents.
        lifetime: that of the renewed one if None, or the longest allowed if that is shorter.
        identity: set if a retry is to return the same certificate.
    """

    certificate_id: str | None
    csr_pem: str | None = None
    csr_der: bytes | None = None
    lifetime: timedelta | None = None
    identity: RequestIdentity | None = None


class RenewCertificate:
    """Renews what the issuing CA signed. Holding the key is what it takes, and no permission."""

    def __init__(self, database: Database, rights: IssuingRights, issuing: Issuing, clock: Clock) -> None:
        self._database = database
        self._rights = rights
        self._issuing = issuing
        self._clock = clock

    async def renew(self, caller: Caller, request: RenewRequest) -> Certificate:
        """Issues a successor, and returns once it is on file; see `CertificateService.RenewCertificate`.

        Raises:
            PermissionDenied: NOT_THE_HOLDER; ACCESS_DENIED, a server name is in force elsewhere.
            InvalidArgument, NotFound, FailedPrecondition, AlreadyExists
        """
        if request.certificate_id not in {None, caller.certificate_id}:
            raise _not_the_holder(caller)
        renewed = await self._database.query(lambda snapshot: _find(snapshot, caller.certificate_id))
        if renewed.origin is Origin.UPLOADED:
            raise FailedPrecondition(
                Reason.CERTIFICATE_UPLOADED,
                "this certificate is of an outside CA; have its CA renew it and upload the new one",
            )
        server_names = server_names_of(x509.load_der_x509_certificate(renewed.der))
        order = Order(
            user_id=renewed.user_id,
            public_key=read_signing_request(pem=request.csr_pem, der=request.csr_der),
            origin=Origin.SIGNED,
            lifetime=self._lifetime(request.lifetime, _lifetime_of(renewed)),
            description=renewed.description,
            labels=renewed.labels,
            # Also this service's own: whoever gave it those names might.
            server_names=server_names,
            renewed_from=renewed.id,
            identity=request.identity,
        )

        async def check(transaction: Transaction) -> Collection[str]:
            await transaction.alone()
            # Somebody may have taken it away since the caller was admitted; whoever did was told that it is in force.
            _check_still_good(await _find(transaction, renewed.id), self._clock())
            owner = await active_owner(transaction, renewed.user_id)
            # The names are somebody else's by now, unless whoever gave them might share them.
            vouched = await vouched_names_of(transaction, renewed.id)
            return await self._rights.require_names(
                transaction, replace(caller, facts=owner), owner, server_names, vouched
            )

        return (await self._issuing.issue(caller, order, check)).certificate

    def _lifetime(self, wanted: timedelta | None, before: timedelta) -> timedelta:
        # Nobody has to permit a renewal. So it must not give more than somebody once gave.
        if wanted is not None and wanted > before:
            raise invalid_field(
                "lifetime",
                f"a renewal lasts no longer than what it renews, {before}; have a new one issued if you need longer",
                Reason.LIFETIME_NOT_ACCEPTED,
            )
        return self._issuing.lifetime(wanted, before)


async def _find(snapshot: Snapshot, certificate_id: str) -> Certificate:
    found = await find_certificate(snapshot, certificate_id)
    if found is None:
        raise certificate_not_found(certificate_id)
    return found


def _not_the_holder(caller: Caller) -> PermissionDenied:
    own = certificate_name(caller.certificate_id)
    return PermissionDenied(
        Reason.NOT_THE_HOLDER,
        f"a certificate is renewed by whoever presents it, and you present {own}; name that one, or present the other",
        metadata={"certificate": own},
    )


def _lifetime_of(certificate: Certificate) -> timedelta:
    """As it was asked for; the validity begins a little before that."""
    return certificate.not_after - certificate.not_before - BACKDATED


def _check_still_good(certificate: Certificate, now: datetime) -> None:
    name = certificate_name(certificate.id)
    match certificate.state(now):
        case CertificateState.ACTIVE:
            return
        case CertificateState.REVOKED:
            raise FailedPrecondition(
                Reason.CERTIFICATE_REVOKED, f"{name} was revoked just now; have another one issued if you need one"
            )
        case CertificateState.ON_HOLD:
            raise FailedPrecondition(
                Reason.CERTIFICATE_ON_HOLD, f"{name} was put on hold just now; renew it once it is reinstated"
            )
        case CertificateState.EXPIRED | CertificateState.NOT_YET_VALID:
            raise FailedPrecondition(
                Reason.CERTIFICATE_NO_LONGER_VALID, f"{name} has just left its validity; have another one issued"
            )
