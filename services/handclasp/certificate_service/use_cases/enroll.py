"""Issues a first certificate, to whoever brings a token for it."""

from __future__ import annotations

from collections.abc import Collection

from handclasp.certificate_service.domain.certificates import Certificate, Origin
from handclasp.certificate_service.domain.decisions import UserFacts
from handclasp.certificate_service.domain.enrollment_tokens import EnrollmentToken, Purpose, Use
from handclasp.certificate_service.storage.certificates import find_certificate
from handclasp.certificate_service.storage.database import Transaction
from handclasp.certificate_service.storage.enrollment_tokens import save_use
from handclasp.certificate_service.use_cases.caller import Caller, Clock
from handclasp.certificate_service.use_cases.certificates import certificate_not_found
from handclasp.certificate_service.use_cases.issuing import Issuing, Make, Order
from handclasp.certificate_service.use_cases.issuing_rights import IssuingRights
from handclasp.certificate_service.use_cases.owners import active_owner
from handclasp.certificate_service.use_cases.recognized_tokens import RecognizedTokens, Sender
from handclasp.certificate_service.x509.fingerprints import key_hash
from handclasp.certificate_service.x509.signing_request import read_signing_request
from handclasp.errors import FailedPrecondition, PermissionDenied


class Enroll:
    """Holding the token is what it takes, while its maker could still issue the certificate themselves."""

    def __init__(self, tokens: RecognizedTokens, rights: IssuingRights, issuing: Issuing, clock: Clock) -> None:
        self._tokens = tokens
        self._rights = rights
        self._issuing = issuing
        self._clock = clock

    async def enroll(self, token: str, *, csr_pem: str | None, csr_der: bytes | None, sender: Sender) -> Certificate:
        """Issues the certificate, and returns once it is on file; see `CertificateService.Enroll`.

        Raises:
            Unauthenticated, ResourceExhausted, InvalidArgument, NotFound, FailedPrecondition
        """
        found = await self._tokens.find(token, Purpose.CERTIFICATE, sender)
        public_key = read_signing_request(pem=csr_pem, der=csr_der)
        key = key_hash(public_key)
        # Looked at before anything is signed; what counts is what is found again in the transaction.
        self._tokens.earlier_use(found, key, sender)
        order = Order(
            user_id=found.user_id,
            public_key=public_key,
            origin=Origin.SIGNED,
            lifetime=self._issuing.lifetime(None),
            server_names=found.server_names,
            enrollment_token_id=found.id,
        )

        async def check(transaction: Transaction) -> Collection[str]:
            try:
                owner = await active_owner(transaction, found.user_id)
            except FailedPrecondition:
                self._tokens.record_disabled(found, sender)
                raise
            maker = await self._tokens.maker(transaction, found, sender)
            try:
                return await self._rights.require_for(transaction, maker, owner, found.server_names)
            except PermissionDenied as error:
                raise self._tokens.maker_lacks(error) from error

        async def once(transaction: Transaction, make: Make) -> Certificate:
            # Whoever else has the token, at whichever process, comes before this or after it.
            await transaction.alone()
            current = await self._tokens.find_again(transaction, found, sender)
            earlier = self._tokens.earlier_use(current, key, sender)
            if earlier is not None:
                return await _given_before(transaction, earlier)
            certificate = await make()
            await save_use(transaction, current.id, Use(self._clock(), key, certificate.id))
            return certificate

        return (await self._issuing.issue(_maker(found, sender.address), order, check, once)).certificate


async def _given_before(transaction: Transaction, use: Use) -> Certificate:
    certificate = await find_certificate(transaction, use.given_id)
    if certificate is None:
        raise certificate_not_found(use.given_id)
    return certificate


def _maker(token: EnrollmentToken, address: str) -> Caller:
    """Whoever made the token is who issues; it is used from another address."""
    return Caller(UserFacts(token.created_by, active=True, grants=()), token.created_with, address=address)
