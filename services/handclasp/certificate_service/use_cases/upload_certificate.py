"""Puts certificates that an outside CA signed on file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cryptography import x509

from handclasp.certificate_service.change_log import CHANGES
from handclasp.certificate_service.domain.certificates import Certificate, Origin, TrustAnchor
from handclasp.certificate_service.domain.changes import Effect
from handclasp.certificate_service.domain.identifiers import certificate_name, trust_anchor_name, user_name
from handclasp.certificate_service.storage.certificates import (
    add_certificate,
    find_same_certificate,
)
from handclasp.certificate_service.storage.database import Database, Transaction
from handclasp.certificate_service.storage.trust_anchors import all_anchors
from handclasp.certificate_service.use_cases.access import Access
from handclasp.certificate_service.use_cases.caller import Caller, Clock
from handclasp.certificate_service.use_cases.idempotency import RequestIdentity, once
from handclasp.certificate_service.use_cases.on_file import certificate_on_file
from handclasp.certificate_service.use_cases.owners import active_owner
from handclasp.certificate_service.use_cases.readmission import readmitted
from handclasp.certificate_service.x509.possession import check_possession
from handclasp.certificate_service.x509.uploaded import (
    TrustAnchorCertificate,
    check_leaf,
    read_upload,
    verify_chain,
)
from handclasp.errors import AlreadyExists, InvalidArgument, Reason


@dataclass(frozen=True, slots=True)
class PossessionProof:
    """A dated statement, and its signature by the leaf's key."""

    statement: str
    signature: bytes


@dataclass(frozen=True, slots=True)
class UploadRequest:
    """What to put on file: `pem`, the leaf and its intermediates, or `der`, the leaf alone."""

    user_id: str
    pem: str | None = None
    der: bytes | None = None
    proof: PossessionProof | None = None
    description: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    identity: RequestIdentity | None = None


class UploadCertificate:
    """Checks uploads against the trust anchors."""

    def __init__(self, database: Database, access: Access, *, trust_domain: str, clock: Clock) -> None:
        self._database = database
        self._access = access
        self._trust_domain = trust_domain
        self._clock = clock

    async def upload(self, caller: Caller, request: UploadRequest) -> Certificate:
        """Puts a certificate on file; see `CertificateService.UploadCertificate`.

        Raises:
            InvalidArgument, NotFound, FailedPrecondition, AlreadyExists, PermissionDenied
        """
        self._access.require_manages(caller, request.user_id)
        chain = read_upload(pem=request.pem, der=request.der)
        now = self._clock()
        check_leaf(chain, trust_domain=self._trust_domain, now=now)
        anchors = await self._database.read(all_anchors)
        verified = verify_chain(chain, _certificates(anchors), now=now)
        if caller.user_id == request.user_id:
            # Before anything is said about what is on file: else everybody could ask about everybody's certificates.
            self._check_proof(request, chain.leaf)
        anchor = next(anchor for anchor in anchors if anchor.id == verified.anchor_id)
        fresh = certificate_on_file(
            chain.leaf,
            user_id=request.user_id,
            origin=Origin.UPLOADED,
            caller=caller,
            now=now,
            description=request.description,
            labels=request.labels,
            trusted_until=verified.trusted_until,
            chain=verified.path[1:],
            anchor_fingerprint=anchor.fingerprint,
        )

        async def put_on_file(transaction: Transaction) -> Certificate:
            acting = await readmitted(transaction, caller, self._clock())
            self._access.require_manages(acting, request.user_id)
            self._access.protect(acting, await active_owner(transaction, request.user_id))
            if anchor.fingerprint not in {known.fingerprint for known in await all_anchors(transaction)}:
                raise InvalidArgument(
                    Reason.CHAIN_NOT_TRUSTED,
                    "the trust anchor that the certificate chains to was removed just now; ask whoever manages trust"
                    " anchors",
                )
            same = await find_same_certificate(
                transaction, fingerprint=fresh.fingerprint, tbs_fingerprint=fresh.tbs_fingerprint
            )
            if same is not None:
                raise self._on_file_already(caller, same)
            await add_certificate(transaction, fresh)
            transaction.touch(certificate_name(fresh.id), Effect.GIVEN)
            return fresh

        def log(certificate: Certificate) -> None:
            if certificate.id == fresh.id:
                CHANGES.info(
                    "certificate_uploaded",
                    certificate=certificate_name(certificate.id),
                    user=user_name(certificate.user_id),
                    serial=certificate.serial,
                    fingerprint=certificate.fingerprint,
                    trust_anchor=trust_anchor_name(anchor.id),
                    by=caller.user,
                    with_certificate=certificate_name(caller.certificate_id),
                    peer_address=caller.address,
                )

        return await self._database.write(
            lambda transaction: once(
                transaction, caller.user_id, request.identity, now, lambda: put_on_file(transaction)
            ),
            log,
        )

    def _check_proof(self, request: UploadRequest, leaf: x509.Certificate) -> None:
        if request.proof is None:
            raise InvalidArgument(
                Reason.POSSESSION_PROOF_REQUIRED,
                "whoever uploads a certificate for themselves proves that they hold its private key; add"
                " possession_proof (`handclasp cert upload --key FILE` makes it)",
            )
        check_possession(
            statement=request.proof.statement,
            signature=request.proof.signature,
            leaf=leaf,
            trust_domain=self._trust_domain,
            user_id=request.user_id,
            now=self._clock(),
        )

    def _on_file_already(self, caller: Caller, same: Certificate) -> AlreadyExists:
        whose = f" as {certificate_name(same.id)}" if self._access.manages(caller, same.user_id) else ""
        return AlreadyExists(
            Reason.CERTIFICATE_EXISTS,
            f"this certificate, or the same one with its signature rewritten, is on file already{whose}; have its CA"
            " issue another one",
        )


def _certificates(anchors: Sequence[TrustAnchor]) -> list[TrustAnchorCertificate]:
    return [TrustAnchorCertificate(anchor.id, x509.load_der_x509_certificate(anchor.der)) for anchor in anchors]
