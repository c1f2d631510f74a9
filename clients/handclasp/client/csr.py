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

_CURVES: dict[str, type[ec.EllipticCurve]] = {"p256": ec.SECP256R1, "p384": ec.SECP384R1}
_SHA256_UP_TO = 256  # bits of the curve
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
    _check_common_name(common_name)
    key = ec.generate_private_key(_CURVES[curve]())
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return KeyAndRequest(key_pem=key_pem, csr_pem=request_for(key, common_name))


def request_for(key: ec.EllipticCurvePrivateKey, common_name: str = "handclasp") -> bytes:
    """A request for a key that there is already, as PKCS #10 PEM. Arguments and errors as of `make_key_and_request`."""
    _check_common_name(common_name)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    hash_type = hashes.SHA256() if key.curve.key_size <= _SHA256_UP_TO else hashes.SHA384()
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hash_type)
    return request.public_bytes(serialization.Encoding.PEM)


def _check_common_name(common_name: str) -> None:
    if not 1 <= len(common_name) <= _LONGEST_COMMON_NAME:
        raise invalid_field("common_name", f"has to have 1 to {_LONGEST_COMMON_NAME} characters")
