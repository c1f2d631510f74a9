from __future__ import annotations

from collections.abc import Callable

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa, x25519
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import load_der_public_key

from handclasp.certificate_service.x509.keys import check_ca_key, check_client_key, describe_key, read_public_key
from handclasp.errors import Reason
from tests.support import der as asn1
from tests.support.outside_ca import OutsideCA, huge_rsa_certificate, rsa_key, rsa_key_info
from tests.unit.x509.refusals import refused

Check = Callable[[CertificatePublicKeyTypes], None]

ED25519 = ed25519.Ed25519PrivateKey.generate().public_key()
P256, P384, P521 = (
    ec.generate_private_key(curve()).public_key() for curve in (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
)
RSA_2048 = rsa_key(2048).public_key()
DSA_2048 = dsa.generate_private_key(2048).public_key()


def odd_rsa(modulus: int, exponent: int = 65537) -> rsa.RSAPublicKey:
    key = load_der_public_key(rsa_key_info(modulus, exponent))
    assert isinstance(key, rsa.RSAPublicKey)
    return key


@pytest.mark.parametrize(
    ("key", "described"),
    [
        (P256, "EC P-256"),
        (P384, "EC P-384"),
        (P521, "EC P-521"),
        (RSA_2048, "RSA 2048"),
        (DSA_2048, "DSA 2048"),
        (ED25519, "Ed25519"),
        (x25519.X25519PrivateKey.generate().public_key(), "X25519"),
        (ec.generate_private_key(ec.SECP256K1()).public_key(), "EC secp256k1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_keys_are_described_by_algorithm_and_size(key: CertificatePublicKeyTypes, described: str) -> None:
    assert describe_key(key) == described


@pytest.mark.parametrize("key", [P256, P384, RSA_2048, odd_rsa(2**8192 - 1), odd_rsa(2**2048 - 1, 2**33 - 1)])
def test_client_keys_that_tls_takes_pass(key: CertificatePublicKeyTypes) -> None:
    check_client_key(key)
    check_ca_key(key)


@pytest.mark.parametrize(
    ("key", "word"),
    [
        (ED25519, "Ed25519, which gRPC's TLS stack does not accept"),
        (P521, "EC P-521, which gRPC's TLS stack does not accept"),
        (DSA_2048, "DSA 2048"),
        (ed448.Ed448PrivateKey.generate().public_key(), "Ed448"),
    ],
)
def test_other_client_keys_are_refused_with_what_would_do(key: CertificatePublicKeyTypes, word: str) -> None:
    with refused(Reason.KEY_NOT_ACCEPTED, word, "EC P-256, EC P-384, or RSA with 2048 to 8192 bits"):
        check_client_key(key)


@pytest.mark.parametrize("check", [check_client_key, check_ca_key])
@pytest.mark.parametrize(
    ("bits", "exponent", "word"),
    [
        (1024, 65537, "1024 bits"),
        (2047, 65537, "2047 bits"),
        (8193, 65537, "8193 bits"),
        (65536, 65537, "65536 bits"),
        (2048, 3, "public exponent"),
        (2048, 2**33 + 1, "public exponent"),
        (2048, 2**1000 + 1, "public exponent"),
    ],
)
def test_rsa_keys_outside_the_bounds_are_refused(check: Check, bits: int, exponent: int, word: str) -> None:
    with refused(Reason.KEY_NOT_ACCEPTED, word):
        check(odd_rsa(2**bits - 1, exponent))


@pytest.mark.parametrize("check", [check_client_key, check_ca_key])
def test_rsa_keys_with_an_even_modulus_are_refused(check: Check) -> None:
    with refused(Reason.KEY_NOT_ACCEPTED, "even modulus"):
        check(odd_rsa(2**2048 - 2))


@pytest.mark.parametrize("key", [P521, ED25519])
def test_cas_may_have_keys_that_clients_may_not(key: CertificatePublicKeyTypes) -> None:
    check_ca_key(key)


@pytest.mark.parametrize("key", [DSA_2048, ed448.Ed448PrivateKey.generate().public_key()])
def test_cas_with_keys_that_tls_stacks_cannot_verify_are_refused(key: CertificatePublicKeyTypes) -> None:
    with refused(Reason.KEY_NOT_ACCEPTED):
        check_ca_key(key)


@pytest.mark.parametrize("exponent", [1, 2, 65536])
def test_a_key_that_cannot_even_be_loaded_is_refused(exponent: int) -> None:
    certificate = x509.load_der_x509_certificate(huge_rsa_certificate(2048, exponent=exponent))
    with refused(Reason.KEY_NOT_ACCEPTED, "cannot be read"):
        read_public_key(certificate)


def test_a_key_restricted_to_pss_is_refused() -> None:
    tbs, algorithm, signature = asn1.children(OutsideCA().issue(key=rsa_key()).der)
    parts = asn1.children(tbs)
    id_rsassa_pss = asn1.sequence(bytes.fromhex("06092a864886f70d01010a"))
    parts[6] = asn1.sequence(id_rsassa_pss, asn1.children(parts[6])[1])
    restricted = x509.load_der_x509_certificate(asn1.sequence(asn1.sequence(*parts), algorithm, signature))
    assert isinstance(restricted.public_key(), rsa.RSAPublicKey)
    with refused(Reason.KEY_NOT_ACCEPTED, "RSASSA-PSS"):
        read_public_key(restricted)
