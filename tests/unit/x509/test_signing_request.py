from __future__ import annotations

import subprocess
from pathlib import Path
from shutil import which
from time import thread_time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes

from handclasp.certificate_service.x509.signing_request import read_signing_request
from handclasp.errors import Reason
from tests.support import der as asn1
from tests.support.outside_ca import OutsideCA, huge_rsa_request, name, pem_block, rsa_key
from tests.unit.x509.refusals import refused

KEY = ec.generate_private_key(ec.SECP256R1())


def request_der(key: CertificateIssuerPrivateKeyTypes = KEY) -> bytes:
    digest = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    request = x509.CertificateSigningRequestBuilder().subject_name(name("anything")).sign(key, digest)
    return request.public_bytes(serialization.Encoding.DER)


def sha1_request() -> bytes:
    info = asn1.children(request_der())[0]
    signature = KEY.sign(info, ec.ECDSA(hashes.SHA1()))  # noqa: S303 - that is the point
    algorithm = asn1.sequence(bytes.fromhex("06072a8648ce3d0401"))
    return asn1.sequence(info, algorithm, asn1.bit_string(signature))


@pytest.mark.parametrize("key", [KEY, ec.generate_private_key(ec.SECP384R1()), rsa_key()])
@pytest.mark.parametrize("label", ["CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST"])
def test_the_public_key_is_taken_from_pem_and_der(key: CertificateIssuerPrivateKeyTypes, label: str) -> None:
    der = request_der(key)
    assert read_signing_request(der=der) == key.public_key()
    assert read_signing_request(pem=f"some text\r\n{pem_block(label, der)}\nmore") == key.public_key()
    assert read_signing_request(pem=pem_block(label, der).replace("\n", "\r\n")) == key.public_key()


@pytest.mark.skipif(which("openssl") is None, reason="openssl is not on PATH")
def test_what_openssl_makes_is_taken(tmp_path: Path) -> None:
    command = ["openssl", "req", "-new", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=x", "-text"]
    command += ["-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "request.pem")]
    subprocess.run(command, check=True, capture_output=True)
    key = serialization.load_pem_private_key((tmp_path / "key.pem").read_bytes(), None)
    assert read_signing_request(pem=(tmp_path / "request.pem").read_text()) == key.public_key()


@pytest.mark.parametrize(
    "sent",
    [
        {},
        {"pem": "", "der": b""},
        {"pem": pem_block("CERTIFICATE REQUEST", request_der()), "der": request_der()},
        {"der": b""},
        {"der": b"\x30"},
        {"der": request_der() + b"\x00"},
        {"der": request_der()[:-1]},
        {"der": OutsideCA().der},
        {"der": b"\x00" * 70_000},
        {"pem": ""},
        {"pem": "nothing of the kind"},
        {"pem": "-----BEGIN CERTIFICATE REQUEST-----"},
        {"pem": "-----BEGIN CERTIFICATE REQUEST-----\n-----END CERTIFICATE REQUEST-----\n"},
        {"pem": "-----BEGIN CERTIFICATE REQUEST-----\nMIIB\n-----END CERTIFICATE-----\n"},
        {"pem": "-----BEGIN CERTIFICATE REQUEST-----\nMI!B\n-----END CERTIFICATE REQUEST-----\n"},
        {"pem": "-----BEGIN CERTIFICATE REQUEST-----\nMIIü\n-----END CERTIFICATE REQUEST-----\n"},
        {"pem": "-----BEGIN CERTIFICATE REQUEST-----\n\ud800\n-----END CERTIFICATE REQUEST-----\n"},
        {"pem": pem_block("CERTIFICATE REQUEST", request_der() + b"\x00")},
        {"pem": pem_block("CERTIFICATE REQUEST", request_der()) * 2},
        {"pem": OutsideCA().pem},
        {"pem": "x" * 65_537},
        {"pem": "ü" * 40_000},
    ],
)
def test_anything_else_is_refused_as_invalid(sent: dict[str, str | bytes]) -> None:
    with refused(Reason.CSR_INVALID):
        read_signing_request(**sent)  # type: ignore[arg-type]  # a table of wrong calls


def test_a_private_key_sent_along_is_refused_and_not_repeated() -> None:
    secret = OutsideCA().issue().key_pem
    with pytest.raises(Exception, match="private key") as caught:
        read_signing_request(pem=secret + pem_block("CERTIFICATE REQUEST", request_der()))
    assert not any(line in str(caught.value) for line in secret.splitlines())


def test_a_signature_by_another_key_is_refused() -> None:
    info, algorithm, _ = asn1.children(request_der())
    other = ec.generate_private_key(ec.SECP256R1()).sign(info, ec.ECDSA(hashes.SHA256()))
    with refused(Reason.CSR_SIGNATURE_INVALID, "not by the key inside it"):
        read_signing_request(der=asn1.sequence(info, algorithm, asn1.bit_string(other)))


def test_a_signature_of_another_algorithm_than_the_key_is_refused() -> None:
    info, _, signature = asn1.children(request_der())
    rsa_with_sha256 = asn1.sequence(bytes.fromhex("06092a864886f70d01010b"), asn1.NULL)
    with refused(Reason.CSR_SIGNATURE_INVALID):
        read_signing_request(der=asn1.sequence(info, rsa_with_sha256, signature))


def test_a_sha1_signature_is_refused_though_it_holds() -> None:
    with refused(Reason.CSR_SIGNATURE_INVALID, "SHA-1"):
        read_signing_request(der=sha1_request())


@pytest.mark.parametrize("key", [ed25519.Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP521R1())])
def test_keys_that_tls_refuses_are_refused(key: CertificateIssuerPrivateKeyTypes) -> None:
    with refused(Reason.KEY_NOT_ACCEPTED):
        read_signing_request(der=request_der(key))


@pytest.mark.parametrize(("bits", "exponent"), [(16384, 65537), (65536, 65537), (200_000, 65537), (8192, 2**8191 + 1)])
def test_huge_rsa_keys_are_refused_before_anything_is_computed(bits: int, exponent: int) -> None:
    der = huge_rsa_request(bits, exponent=exponent)
    begun = thread_time()
    with refused(Reason.KEY_NOT_ACCEPTED):
        read_signing_request(der=der)
    # Loading takes well under a millisecond, an exponentiation with such numbers tens of milliseconds and more.
    assert thread_time() - begun < 0.5
