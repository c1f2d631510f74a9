"""Trust anchors: outside CAs whose leaves may be uploaded."""

from __future__ import annotations

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from handclasp.certificate_service.change_log import CHANGES
from handclasp.certificate_service.domain.certificates import MAXIMUM_ANCHOR_DISPLAY_NAME, TrustAnchor
from handclasp.certificate_service.domain.changes import Effect
from handclasp.certificate_service.domain.identifiers import new_id, not_found, trust_anchor_name
from handclasp.certificate_service.domain.permissions import Permission
from handclasp.certificate_service.domain.users import check_text
from handclasp.certificate_service.domain.visibility import visible_by
from handclasp.certificate_service.storage.database import Database, Transaction
from handclasp.certificate_service.storage.installation import read_authorities
from handclasp.certificate_service.storage.trust_anchors import add_anchor, all_anchors, list_anchors, remove_anchor
from handclasp.certificate_service.use_cases.access import Access
from handclasp.certificate_service.use_cases.caller import Caller, Clock
from handclasp.certificate_service.use_cases.pages import Page, PageRequest, PageTokens, limit
from handclasp.certificate_service.use_cases.readmission import readmitted
from handclasp.certificate_service.watching.barrier import Barrier, InForce
from handclasp.certificate_service.x509.anchors import conflict, conflict_with_own, read_anchor
from handclasp.certificate_service.x509.fingerprints import fingerprint
from handclasp.errors import AlreadyExists, FailedPrecondition, Reason


class TrustAnchors:
    """Adds, lists and removes trust anchors."""

    def __init__(self, database: Database, barrier: Barrier, access: Access, tokens: PageTokens, clock: Clock) -> None:
        self._database = database
        self._barrier = barrier
        self._access = access
        self._tokens = tokens
        self._clock = clock

    async def add(
        self, caller: Caller, *, pem: str | None, der: bytes | None, display_name: str
    ) -> InForce[TrustAnchor]:
        """Adds an anchor; see `CertificateService.AddTrustAnchor`.

        Raises:
            PermissionDenied, InvalidArgument
            AlreadyExists: TRUST_ANCHOR_EXISTS.
            FailedPrecondition: ANCHOR_CONFLICT.
        """
        now = self._clock()
        anchor_id = new_id(now)
        self._access.require(caller, Permission.TRUST_MANAGEMENT, trust_anchor_name(anchor_id))
        text = check_text(display_name, "display_name", maximum=MAXIMUM_ANCHOR_DISPLAY_NAME)
        certificate = read_anchor(pem=pem, der=der, now=now)
        encoded = certificate.public_bytes(Encoding.DER)
        fresh = TrustAnchor(
            id=anchor_id,
            display_name=text,
            subject=certificate.subject.rfc4514_string(),
            fingerprint=fingerprint(encoded),
            not_before=certificate.not_valid_before_utc,
            not_after=certificate.not_valid_after_utc,
            der=encoded,
            create_time=now,
            created_by=caller.user_id,
        )

        async def work(transaction: Transaction) -> TrustAnchor:
            acting = await readmitted(transaction, caller, self._clock())
            self._access.require(acting, Permission.TRUST_MANAGEMENT, trust_anchor_name(anchor_id))
            known = await all_anchors(transaction)
            for other in known:
                if other.fingerprint == fresh.fingerprint:
                    raise AlreadyExists(
                        Reason.TRUST_ANCHOR_EXISTS, f"this CA certificate is {trust_anchor_name(other.id)} already"
                    )
            own = [x509.load_der_x509_certificate(authority.der) for authority in await read_authorities(transaction)]
            if conflict_with_own(certificate, own) is not None:
                raise FailedPrecondition(
                    Reason.ANCHOR_CONFLICT,
                    "this CA certificate shares subject and key identifier with a CA of this service; TLS stacks would"
                    " confuse the two",
                )
            others = [x509.load_der_x509_certificate(other.der) for other in known]
            clashing = conflict(certificate, others)
            if clashing is not None:
                raise FailedPrecondition(
                    Reason.ANCHOR_CONFLICT,
                    f"this CA certificate shares subject and key identifier with"
                    f" {trust_anchor_name(known[others.index(clashing)].id)} and has another key; TLS stacks would"
                    " confuse the two. Remove that one first, or have the CA use proper key identifiers",
                )
            await add_anchor(transaction, fresh)
            transaction.touch(trust_anchor_name(fresh.id), Effect.GIVEN)
            return fresh

        def log(_: TrustAnchor) -> None:
            CHANGES.info(
                "trust_anchor_added",
                trust_anchor=trust_anchor_name(fresh.id),
                subject=fresh.subject,
                fingerprint=fresh.fingerprint,
                by=caller.user,
            )

        return await self._barrier.write(work, log)

    async def list(self, caller: Caller, request: PageRequest) -> Page[TrustAnchor]:
        """Raises InvalidArgument for the page size or the page token."""
        after = self._tokens.after(caller, request)
        visible = visible_by(caller.grants, Permission.TRUST_MANAGEMENT, "trustAnchors")
        found = await self._database.read(
            lambda snapshot: list_anchors(snapshot, visible, after=after, limit=limit(request))
        )
        return self._tokens.page(caller, request, found, lambda anchor: anchor.id)

    async def remove(self, caller: Caller, anchor_id: str) -> InForce[None]:
        """Removes an anchor; certificates under it are refused from then on. If it is gone already, this waits just the
        same before it says so: whoever removed it may have left before it was in force (rule 15).

        Raises:
            PermissionDenied
            NotFound: TRUST_ANCHOR_NOT_FOUND.
        """
        name = trust_anchor_name(anchor_id)
        self._access.require(caller, Permission.TRUST_MANAGEMENT, name)

        async def work(transaction: Transaction) -> bool:
            removed = await remove_anchor(transaction, anchor_id)
            if removed:
                transaction.touch(name, Effect.WITHDRAWN)
            return removed

        def log(removed: bool) -> None:
            if removed:
                CHANGES.info("trust_anchor_removed", trust_anchor=name, by=caller.user)

        done = await self._barrier.write(work, log)
        if not done.value:
            raise not_found(Reason.TRUST_ANCHOR_NOT_FOUND, name)
        return InForce(None, done.revision, done.settled)

    def sees_anchors(self, caller: Caller) -> bool:
        """Whether the anchors may be shown to the caller."""
        return any(
            grant.permission in {Permission.AUTHORIZE_PEERS, Permission.TRUST_MANAGEMENT} for grant in caller.grants
        )
