"""How certificates are told apart."""

from __future__ import annotations

import hashlib

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

# As long as other ids, and 104 bits: enough that no two keys meet.
_ID_DIGITS = 26


def fingerprint(der: bytes) -> str:
    """SHA-256 of a certificate's DER, in lower-case hexadecimal."""
    return hashlib.sha256(der).hexdigest()


def tbs_fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of what the CA signed, in lower-case hexadecimal.

    The same for both forms of a certificate whose ECDSA signature was rewritten from (r, s) to (r, n - s): another DER,
    another fingerprint, and as valid as the first.
    """
    return hashlib.sha256(certificate.tbs_certificate_bytes).hexdigest()


def key_hash(public_key: CertificatePublicKeyTypes) -> str:
    """SHA-256 of a public key's SubjectPublicKeyInfo, in lower-case hexadecimal."""
    return hashlib.sha256(public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def authority_id(public_key: CertificatePublicKeyTypes) -> str:
    """The id of a CA of ours, by its key: so its key file has its name before anybody has certified the key."""
    return key_hash(public_key)[:_ID_DIGITS]


def serial_hex(serial: int) -> str:
    """A serial number in lower-case hexadecimal, without leading zeros."""
    return f"{serial:x}"
