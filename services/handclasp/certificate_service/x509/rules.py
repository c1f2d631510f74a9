"""What RFC 5280 and gRPC's TLS stack ask of a certificate, one rule a function.

Each returns what is wrong, as the second half of a sentence, or None. What the TLS stack does was measured against
grpcio 1.85 (BoringSSL): a certificate that it refuses in the handshake is of no use on file.
"""

from __future__ import annotations

from datetime import datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, SignatureAlgorithmOID

from handclasp.certificate_service.x509.certificates import extension

_SIGNATURES = frozenset(
    {
        SignatureAlgorithmOID.ECDSA_WITH_SHA256,
        SignatureAlgorithmOID.ECDSA_WITH_SHA384,
        SignatureAlgorithmOID.ECDSA_WITH_SHA512,
        SignatureAlgorithmOID.RSA_WITH_SHA256,
        SignatureAlgorithmOID.RSA_WITH_SHA384,
        SignatureAlgorithmOID.RSA_WITH_SHA512,
        SignatureAlgorithmOID.ED25519,
    }
)
_PSS_HASHES = (hashes.SHA256, hashes.SHA384, hashes.SHA512)
_BROKEN_HASHES = {
    SignatureAlgorithmOID.RSA_WITH_MD5: "MD5",
    SignatureAlgorithmOID.RSA_WITH_SHA1: "SHA-1",
    SignatureAlgorithmOID.ECDSA_WITH_SHA1: "SHA-1",
    SignatureAlgorithmOID.DSA_WITH_SHA1: "SHA-1",
}

# Not among them: policyConstraints, nameConstraints of kinds that are not understood, and what is nowhere critical by
# rights (SKI, AKI, AIA, ...). The TLS stack refuses those too.
_UNDERSTOOD = frozenset(
    {
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
        ExtensionOID.CERTIFICATE_POLICIES,
        ExtensionOID.POLICY_MAPPINGS,
        ExtensionOID.INHIBIT_ANY_POLICY,
        ExtensionOID.NAME_CONSTRAINTS,
    }
)


def signature_fault(certificate: x509.Certificate | x509.CertificateSigningRequest) -> str | None:
    """Whether the signature is of a kind that still proves something, and that TLS stacks verify.

    RSASSA-PSS only with the salt as long as the hash and one hash throughout; that is how everybody makes it.
    """
    oid = certificate.signature_algorithm_oid
    if oid in _SIGNATURES:
        return None
    if oid in _BROKEN_HASHES:
        return f"is signed with {_BROKEN_HASHES[oid]}, which can be forged. SHA-256 is needed"
    if oid == SignatureAlgorithmOID.RSASSA_PSS and _is_common_pss(certificate):
        return None
    return (
        f"is signed with an algorithm that TLS stacks do not accept ({oid.dotted_string}). ECDSA or RSA with SHA-256 "
        "would do"
    )


def _is_common_pss(certificate: x509.Certificate | x509.CertificateSigningRequest) -> bool:
    try:
        parameters, hash_algorithm = certificate.signature_algorithm_parameters, certificate.signature_hash_algorithm
    except (ValueError, UnsupportedAlgorithm):
        return False
    if not isinstance(hash_algorithm, _PSS_HASHES):
        return False
    return parameters == padding.PSS(padding.MGF1(hash_algorithm), hash_algorithm.digest_size)


def critical_extension_fault(certificate: x509.Certificate) -> str | None:
    """Critical extensions that nobody here understands (RFC 5280, section 4.2)."""
    for item in certificate.extensions:
        if item.critical and item.oid not in _UNDERSTOOD:
            return f"has a critical extension that is not supported here ({item.oid.dotted_string})"
    return None


def validity_fault(certificate: x509.Certificate, now: datetime) -> str | None:
    """Whether it is within its validity, both ends included (RFC 5280, section 4.1.2.5)."""
    if now > certificate.not_valid_after_utc:
        return f"expired on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M:%S} UTC"
    if now < certificate.not_valid_before_utc:
        return f"is valid only from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M:%S} UTC on"
    return None


def ca_fault(certificate: x509.Certificate) -> str | None:
    """Whether it may sign certificates: version 3, BasicConstraints with CA:TRUE, and keyCertSign.

    CAs without any key usage pass: they are common, since `openssl req -x509` makes them.
    """
    if certificate.version is not x509.Version.v3:
        return "is of version 1, so that nothing says that it is a CA's"
    constraints = extension(certificate, x509.BasicConstraints)
    if constraints is None or not constraints.ca:
        return "is not a CA's: BasicConstraints does not say CA:TRUE"
    usage = extension(certificate, x509.KeyUsage)
    if usage is not None and not usage.key_cert_sign:
        return "is not a CA's: its key usage does not include keyCertSign"
    return None


def client_purpose_fault(certificate: x509.Certificate) -> str | None:
    """Whether the extended key usage, if any, allows clientAuth.

    Of a CA it limits what it can sign for. anyExtendedKeyUsage alone is refused in the handshake, so it is here.
    """
    usage = extension(certificate, x509.ExtendedKeyUsage)
    if usage is None or ExtendedKeyUsageOID.CLIENT_AUTH in usage:
        return None
    if ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE in usage:
        return "has anyExtendedKeyUsage without clientAuth, which TLS stacks do not take for it"
    return "has an extended key usage without clientAuth"
