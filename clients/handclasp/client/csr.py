"""Keys and certificate signing requests, made where the key is to stay."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from handclasp.errors import invalid_field

Curve = Literal["p256", "p384"]

_CURVES: dict[str, tuple[type[ec.EllipticCurve], type[hashes.SHA256 | hashes.SHA384]]] = {
    "p256": (ec.SECP256R1, hashes.SHA256),
    "p384": (ec.SECP384R1, hashes.SHA384),
}
_LONGEST_COMMON_NAME = 64  # ub-common-name, RFC 5280, appendix A.1


@dataclass(frozen=True, slots=True)
class KeyAndRequest:
    """A new private key (unencrypted PKCS #8 PEM) and a certificate signing request for it (PKCS #10 PEM)."""

    key_pem: bytes = field(repr=False)
    csr_pem: bytes


def make_key_and_request(common_name: str = "handclasp", curve: Curve = "p256") -> KeyAndRequest:
    """A new key and a request for it.

    Args:
        common_name: the request's subject. The certificate service does not take it over: the subject of a certificate
            is its user. Other CAs may. 1 to 64 characters.
        curve: P-256 or P-384; TLS stacks refuse others.

    Raises:
        InvalidArgument: the common name has no fitting length.
    """
    if not 1 <= len(common_name) <= _LONGEST_COMMON_NAME:
        raise invalid_field("common_name", f"has to have 1 to {_LONGEST_COMMON_NAME} characters")
    curve_type, hash_type = _CURVES[curve]
    key = ec.generate_private_key(curve_type())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hash_type())
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return KeyAndRequest(key_pem=key_pem, csr_pem=request.public_bytes(serialization.Encoding.PEM))
