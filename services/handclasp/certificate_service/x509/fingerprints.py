"""How certificates are told apart."""

from __future__ import annotations

import hashlib

from cryptography import x509


def fingerprint(der: bytes) -> str:
    """SHA-256 of a certificate's DER, in lower-case hexadecimal."""
    return hashlib.sha256(der).hexdigest()


def tbs_fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of what the CA signed, in lower-case hexadecimal.

    The same for both forms of a certificate whose ECDSA signature was rewritten from (r, s) to (r, n - s): another DER,
    another fingerprint, and as valid as the first.
    """
    return hashlib.sha256(certificate.tbs_certificate_bytes).hexdigest()


def serial_hex(serial: int) -> str:
    """A serial number in lower-case hexadecimal, without leading zeros."""
    return f"{serial:x}"
