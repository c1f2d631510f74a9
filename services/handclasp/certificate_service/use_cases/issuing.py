"""Signs leaves and puts them on file: what issuing and renewing have in common."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

from handclasp.certificate_service.change_log import CHANGES
from handclasp.certificate_service.domain.certificates import Certificate, Origin
from handclasp.certificate_service.domain.changes import Effect
from handclasp.certificate_service.domain.durations import check_lifetime
from handclasp.certificate_service.domain.identifiers import certificate_name, enrollment_token_name, user_name
from handclasp.certificate_service.storage.certificates import add_certificate
from handclasp.certificate_service.storage.database import Database, Transaction
from handclasp.certificate_service.storage.server_names import add_server_names
from handclasp.certificate_service.use_cases.caller import Caller, Clock
from handclasp.certificate_service.use_cases.idempotency import RequestIdentity, once
from handclasp.certificate_service.use_cases.on_file import certificate_on_file
from handclasp.certificate_service.x509.issuing import Authority, LeafSubject, canonical_server_name, issue_leaf

Make = Callable[[], Awaitable[Certificate]]
Once = Callable[[Transaction, Make], Awaitable[Certificate]]
"""What `Make` puts on file; or the certificate that an earlier try had put there."""


@dataclass(frozen=True, slots=True)
class Order:
    """A leaf to be signed and put on file.

    Attributes:
        public_key: has passed `check_client_key`.
        lifetime: from `Issuing.lifetime`.
        renewed_from: the id of the certificate whose successor it is; None if of none.
        enrollment_token_id: of the token that it is issued for; None if for none.
        identity: set if a retry is to return the same certificate.
    """

    user_id: str
    public_key: CertificatePublicKeyTypes
    origin: Origin
    lifetime: timedelta
    description: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    server_names: tuple[str, ...] = ()
    renewed_from: str | None = None
    enrollment_token_id: str | None = None
    identity: RequestIdentity | None = None


@dataclass(frozen=True, slots=True)
class Filed:
    """What is on file for an order; not `fresh` if an earlier try had put it there."""

    certificate: Certificate
    fresh: bool


class Issuing:
    """Signs with the issuing CA.

    Args:
        maximum_lifetime: the longest lifetime a caller may ask for.
    """

    def __init__(
        self,
        database: Database,
        authority: Authority,
        *,
        trust_domain: str,
        maximum_lifetime: timedelta,
        clock: Clock,
    ) -> None:
        self._database = database
        self._authority = authority
        self._trust_domain = trust_domain
        self._maximum_lifetime = maximum_lifetime
        self._clock = clock

    def lifetime(self, wanted: timedelta | None, default: timedelta | None = None) -> timedelta:
        """The lifetime of a new leaf: the wanted one, or else the default, or the longest allowed if that is shorter.

        Raises:
            InvalidArgument: LIFETIME_NOT_ACCEPTED.
        """
        if wanted is None:
            return self._maximum_lifetime if default is None else min(default, self._maximum_lifetime)
        return check_lifetime(wanted, self._maximum_lifetime)

    async def issue(
        self,
        caller: Caller,
        order: Order,
        check: Callable[[Transaction], Awaitable[Collection[str]]],
        only_once: Once | None = None,
    ) -> Filed:
        """Signs a leaf, and returns once it is on file.

        Args:
            check: run in the transaction that puts it on file; raises a typed error if that must not be, and returns
                those of the server names that somebody vouches for (`IssuingRights`). Not run if an earlier try had
                put it there.
            only_once: tells whether one had; by the order's `identity` if None.

        Raises:
            InvalidArgument, FailedPrecondition, AlreadyExists: and what `check` raises.
        """
        now = self._clock()
        leaf = issue_leaf(
            self._authority,
            subject=LeafSubject(order.user_id, self._trust_domain, order.server_names),
            public_key=order.public_key,
            now=now,
            lifetime=order.lifetime,
        )
        fresh = certificate_on_file(
            leaf,
            user_id=order.user_id,
            origin=order.origin,
            caller=caller,
            now=now,
            description=order.description,
            labels=order.labels,
            renewed_from=order.renewed_from,
        )

        async def put_on_file(transaction: Transaction) -> Certificate:
            vouched = await check(transaction)
            await add_certificate(transaction, fresh)
            names = [canonical_server_name(name) for name in order.server_names]
            await add_server_names(transaction, fresh.id, names, vouched)
            transaction.touch(certificate_name(fresh.id), Effect.GIVEN)
            return fresh

        async def work(transaction: Transaction) -> Certificate:
            async def make() -> Certificate:
                return await put_on_file(transaction)

            if only_once is not None:
                return await only_once(transaction, make)
            return await once(transaction, caller.user_id, order.identity, now, make)

        def log(certificate: Certificate) -> None:
            if certificate.id == fresh.id:
                _log_issued(certificate, order, caller)

        certificate = await self._database.write(work, log)
        return Filed(certificate, fresh=certificate.id == fresh.id)


def _log_issued(certificate: Certificate, order: Order, caller: Caller) -> None:
    came_by = {}
    if order.renewed_from is not None:
        came_by["renewed_from"] = certificate_name(order.renewed_from)
    if order.enrollment_token_id is not None:
        came_by["enrollment_token"] = enrollment_token_name(order.enrollment_token_id)
    CHANGES.info(
        "certificate_issued",
        certificate=certificate_name(certificate.id),
        user=user_name(certificate.user_id),
        origin=certificate.origin.value,
        serial=certificate.serial,
        fingerprint=certificate.fingerprint,
        not_after=certificate.not_after.isoformat(),
        **came_by,
        by=caller.user,
        with_certificate=certificate_name(caller.certificate_id),
        peer_address=caller.address,
    )
