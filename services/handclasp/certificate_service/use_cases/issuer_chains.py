"""What certificates chain over: each replica issues under a CA of its own, and any of them may be asked."""

from __future__ import annotations

from cryptography import x509

from handclasp.certificate_service.domain.certificates import Certificate
from handclasp.certificate_service.storage.database import Database
from handclasp.certificate_service.storage.installation import ISSUING, read_authorities


class IssuerChains:
    """Finds the intermediates of certificates on file."""

    def __init__(self, database: Database) -> None:
        self._database = database
        # Nothing here can be stale: issuing CAs are added, and neither changed nor removed.
        self._by_issuer: dict[str, tuple[bytes, ...]] = {}

    async def of(self, certificate: Certificate) -> tuple[bytes, ...]:
        """DER of the intermediates, without the root."""
        if certificate.anchor_fingerprint is not None:
            return certificate.chain_der
        known = self._by_issuer.get(certificate.issuer)
        if known is None:
            # Of a replica that has joined since this was last read.
            await self._read()
            known = self._by_issuer.get(certificate.issuer, ())
        return known

    async def _read(self) -> None:
        for record in await self._database.query(read_authorities):
            if record.role == ISSUING:
                subject = x509.load_der_x509_certificate(record.der).subject.rfc4514_string()
                self._by_issuer[subject] = (record.der,)
