"""Which public keys are let in.

The bounds on RSA are checked on the numbers alone, before anything computes with them: loading a key of 65,536 bits
costs microseconds, verifying a signature with a large modulus or exponent costs as much as whoever sent it likes.
"""

from __future__ import annotations

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import PublicKeyAlgorithmOID

from handclasp.errors import InvalidArgument, Reason

MIN_RSA_BITS = 2048
MAX_RSA_BITS = 8192

# The smallest exponent in common use today, and what BoringSSL, which gRPC brings along, stops at (33 bits).
_MIN_RSA_EXPONENT = 65537
_MAX_RSA_EXPONENT = 2**33 - 1

_CURVES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}
_CLIENT_KEYS = f"EC P-256, EC P-384, or RSA with {MIN_RSA_BITS} to {MAX_RSA_BITS} bits"
_CA_KEYS = f"EC P-256, P-384 or P-521, Ed25519, or RSA with {MIN_RSA_BITS} to {MAX_RSA_BITS} bits"


def describe_key(public_key: CertificatePublicKeyTypes) -> str:
    """The key's kind as `Certificate.key_algorithm` has it: `EC P-256`, `RSA 2048`, `Ed25519`."""
    match public_key:
        case ec.EllipticCurvePublicKey():
            return f"EC {_CURVES.get(public_key.curve.name, public_key.curve.name)}"
        case rsa.RSAPublicKey():
            return f"RSA {public_key.key_size}"
        case dsa.DSAPublicKey():
            return f"DSA {public_key.key_size}"
        case _:
            return type(public_key).__name__.removesuffix("PublicKey")


def read_public_key(source: x509.Certificate | x509.CertificateSigningRequest) -> CertificatePublicKeyTypes:
    """The public key in a certificate or request; nothing is computed with it.

    Raises:
        InvalidArgument: `KEY_NOT_ACCEPTED` for a key that cannot be read, or is of an algorithm nobody here knows. RSA
            keys that a certificate restricts to RSASSA-PSS are among them: TLS stacks know the plain kind.
    """
    # A request's key is written anew into the certificate, as a plain one.
    if isinstance(source, x509.Certificate) and source.public_key_algorithm_oid == PublicKeyAlgorithmOID.RSASSA_PSS:
        raise _not_accepted("it is an RSA key restricted to RSASSA-PSS, which TLS stacks do not accept", _CLIENT_KEYS)
    try:
        return source.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _not_accepted("it cannot be read, or its algorithm is not supported", _CLIENT_KEYS) from error


def check_client_key(public_key: CertificatePublicKeyTypes) -> None:
    """Raises `InvalidArgument` (`KEY_NOT_ACCEPTED`) unless gRPC's TLS stack takes this key from a client."""
    match public_key:
        case rsa.RSAPublicKey():
            _check_rsa(public_key, _CLIENT_KEYS)
        case ec.EllipticCurvePublicKey(curve=ec.SECP256R1() | ec.SECP384R1()):
            pass
        case _:
            fault = f"it is {describe_key(public_key)}, which gRPC's TLS stack does not accept from clients"
            raise _not_accepted(fault, _CLIENT_KEYS)


def check_ca_key(public_key: CertificatePublicKeyTypes) -> None:
    """Raises `InvalidArgument` (`KEY_NOT_ACCEPTED`) unless TLS stacks verify signatures by this key of a CA."""
    match public_key:
        case rsa.RSAPublicKey():
            _check_rsa(public_key, _CA_KEYS)
        case ec.EllipticCurvePublicKey(curve=ec.SECP256R1() | ec.SECP384R1() | ec.SECP521R1()):
            pass
        case ed25519.Ed25519PublicKey():
            pass
        case _:
            raise _not_accepted(
                f"it is a CA's and {describe_key(public_key)}, which TLS stacks do not accept", _CA_KEYS
            )


def _check_rsa(public_key: rsa.RSAPublicKey, accepted: str) -> None:
    bits = public_key.key_size
    if not MIN_RSA_BITS <= bits <= MAX_RSA_BITS:
        raise _not_accepted(f"it is RSA with {bits} bits", accepted)
    numbers = public_key.public_numbers()
    if numbers.n % 2 == 0:
        raise _not_accepted("it is RSA with an even modulus, which is no product of two large primes", accepted)
    if not _MIN_RSA_EXPONENT <= numbers.e <= _MAX_RSA_EXPONENT or numbers.e % 2 == 0:
        fault = f"it is RSA with a public exponent that is not odd and from {_MIN_RSA_EXPONENT} to {_MAX_RSA_EXPONENT}"
        raise _not_accepted(fault, accepted)


def _not_accepted(fault: str, accepted: str) -> InvalidArgument:
    return InvalidArgument(Reason.KEY_NOT_ACCEPTED, f"The public key is not accepted: {fault}. Use {accepted}.")
