"""Makes another replica a CA of this service, if it brings a token for it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding

from handclasp.certificate_service.certificate_authority import Installation, key_file_of
from handclasp.certificate_service.change_log import CHANGES
from handclasp.certificate_service.domain.changes import Effect
from handclasp.certificate_service.domain.enrollment_tokens import EnrollmentToken, Purpose, Use
from handclasp.certificate_service.domain.identifiers import authority_name, enrollment_token_name, user_name
from handclasp.certificate_service.storage.database import Transaction
from handclasp.certificate_service.storage.enrollment_tokens import save_use
from handclasp.certificate_service.storage.installation import (
    ISSUING,
    AuthorityRecord,
    add_authority,
    find_authority,
)
from handclasp.certificate_service.storage.trust_anchors import all_anchors
from handclasp.certificate_service.use_cases.access import Access
from handclasp.certificate_service.use_cases.caller import Clock
from handclasp.certificate_service.use_cases.enrollment_tokens import ANY_AUTHORITY
from handclasp.certificate_service.use_cases.owners import active_owner
from handclasp.certificate_service.use_cases.recognized_tokens import RecognizedTokens, Sender
from handclasp.certificate_service.watching.barrier import Barrier, InForce
from handclasp.certificate_service.x509.anchors import conflict_with_own
from handclasp.certificate_service.x509.fingerprints import authority_id, fingerprint, key_hash
from handclasp.certificate_service.x509.issuing import Authority, issue_issuing_authority
from handclasp.certificate_service.x509.signing_request import read_signing_request
from handclasp.errors import FailedPrecondition, Reason


@dataclass(frozen=True, slots=True)
class Joined:
    """A CA certificate for a replica, and the root's that signed it, both DER."""

    authority: bytes
    root: bytes


class EnrollReplica:
    """Signs with the root's key, so it works at a replica that has it."""

    def __init__(
        self, barrier: Barrier, access: Access, tokens: RecognizedTokens, installation: Installation, clock: Clock
    ) -> None:
        self._barrier = barrier
        self._access = access
        self._tokens = tokens
        self._installation = installation
        self._clock = clock

    async def enroll(
        self, token: str, *, csr_pem: str | None, csr_der: bytes | None, sender: Sender
    ) -> InForce[Joined]:
        """Certifies the key, and returns once all servers let in what it signs; see `CertificateService.EnrollReplica`.

        Raises:
            Unauthenticated, ResourceExhausted, InvalidArgument, PermissionDenied, NotFound, FailedPrecondition
        """
        found = await self._tokens.find(token, Purpose.REPLICA, sender)
        public_key = read_signing_request(pem=csr_pem, der=csr_der)
        key = key_hash(public_key)
        self._tokens.earlier_use(found, key, sender)
        fresh = self._certify(self._root(), public_key, self._clock())

        async def work(transaction: Transaction) -> AuthorityRecord:
            # Whoever else has the token, or adds an anchor, comes before this or after it.
            current = await self._tokens.find_again(transaction, found, sender)
            earlier = self._tokens.earlier_use(current, key, sender)
            known = await find_authority(transaction, fresh.id)
            if earlier is not None and known is not None:
                return known
            await self._check_maker(transaction, current, sender)
            await _check_key(transaction, fresh, known)
            await save_use(transaction, current.id, Use(self._clock(), key, fresh.id))
            if known is not None:
                # The same replica, with another token: its certificate is the one that it has.
                return known
            await add_authority(transaction, fresh)
            transaction.touch(authority_name(fresh.id), Effect.GIVEN)
            return fresh

        def log(record: AuthorityRecord) -> None:
            if record is fresh:
                _log_enrolled(record, found, sender)

        done = await self._barrier.write(work, log)
        root = self._installation.root_certificate.public_bytes(Encoding.DER)
        return InForce(Joined(done.value.der, root), done.revision, done.settled)

    def _root(self) -> Authority:
        root = self._installation.root
        if root is None:
            raise FailedPrecondition(
                Reason.ROOT_KEY_ELSEWHERE,
                "this replica does not have the root's key; enroll at the one where the installation was made",
            )
        return root

    def _certify(self, root: Authority, public_key: CertificatePublicKeyTypes, now: datetime) -> AuthorityRecord:
        certificate = issue_issuing_authority(
            root, public_key=public_key, trust_domain=self._installation.trust_domain, now=now
        )
        der = certificate.public_bytes(Encoding.DER)
        return AuthorityRecord(authority_id(public_key), ISSUING, der, key_file_of(ISSUING, public_key), now)

    async def _check_maker(self, transaction: Transaction, token: EnrollmentToken, sender: Sender) -> None:
        """Whoever made the token must still be one who may: what it gives is not taken back with them."""
        try:
            await active_owner(transaction, token.user_id)
        except FailedPrecondition:
            self._tokens.record_disabled(token, sender)
            raise
        maker = await self._tokens.maker(transaction, token, sender)
        self._access.require_all_administrative(maker, ANY_AUTHORITY)


async def _check_key(transaction: Transaction, fresh: AuthorityRecord, known: AuthorityRecord | None) -> None:
    """The key must be no other CA's: TLS stacks would confuse the two, or what an anchor signs would pass for ours."""
    certificate = x509.load_der_x509_certificate(fresh.der)
    anchors = await all_anchors(transaction)
    clashes = any(
        conflict_with_own(x509.load_der_x509_certificate(anchor.der), [certificate]) is not None for anchor in anchors
    )
    if clashes or (known is not None and known.role != ISSUING):
        raise FailedPrecondition(
            Reason.ANCHOR_CONFLICT, "this key is that of another CA; have the replica make one of its own"
        )


def _log_enrolled(record: AuthorityRecord, token: EnrollmentToken, sender: Sender) -> None:
    CHANGES.warning(
        "replica_enrolled",
        authority=authority_name(record.id),
        subject=x509.load_der_x509_certificate(record.der).subject.rfc4514_string(),
        fingerprint=fingerprint(record.der),
        enrollment_token=enrollment_token_name(token.id),
        by=user_name(token.created_by),
        peer_address=sender.address,
    )
