from __future__ import annotations

import ipaddress
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID

from handclasp.certificate_service.x509.certificates import extension
from handclasp.certificate_service.x509.fingerprints import fingerprint, serial_hex, tbs_fingerprint
from handclasp.certificate_service.x509.issuing import (
    Authority,
    LeafSubject,
    certificate_pem,
    generate_key,
    issue_leaf,
    issue_server_certificate,
    key_to_pem,
    make_issuing_authority,
    make_root,
    parse_server_name,
)
from handclasp.certificate_service.x509.paths import build_path
from handclasp.errors import FailedPrecondition, Reason
from tests.support.outside_ca import rsa_key, signature_twin
from tests.unit.x509.refusals import NOW, refused

DOMAIN = "handclasp.example"
ROOT = make_root(trust_domain=DOMAIN, now=NOW)
ISSUING = make_issuing_authority(ROOT, trust_domain=DOMAIN, now=NOW)
KEY = generate_key("EC P-256")
ALICE = LeafSubject("alice", DOMAIN)


def leaf(subject: LeafSubject = ALICE, authority: Authority = ISSUING, days: float = 90) -> x509.Certificate:
    lifetime = timedelta(days=days)
    return issue_leaf(authority, subject=subject, public_key=KEY.public_key(), now=NOW, lifetime=lifetime)


def critical(certificate: x509.Certificate) -> set[x509.ObjectIdentifier]:
    return {item.oid for item in certificate.extensions if item.critical}


def test_the_root_and_the_issuing_ca_are_cas_by_rfc_5280() -> None:
    for authority, path_length, curve in ((ROOT, 1, "secp384r1"), (ISSUING, 0, "secp256r1")):
        certificate = authority.certificate
        assert extension(certificate, x509.BasicConstraints) == x509.BasicConstraints(ca=True, path_length=path_length)
        usage = extension(certificate, x509.KeyUsage)
        assert usage is not None
        assert (usage.key_cert_sign, usage.crl_sign, usage.digital_signature) == (True, True, False)
        assert critical(certificate) == {ExtensionOID.BASIC_CONSTRAINTS, ExtensionOID.KEY_USAGE}
        public_key = certificate.public_key()
        assert isinstance(public_key, ec.EllipticCurvePublicKey)
        assert public_key.curve.name == curve
        assert public_key == authority.key.public_key()
        own_key = x509.SubjectKeyIdentifier.from_public_key(public_key)
        assert extension(certificate, x509.SubjectKeyIdentifier) == own_key
        signer = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(
            x509.SubjectKeyIdentifier.from_public_key(ROOT.certificate.public_key())
        )
        assert extension(certificate, x509.AuthorityKeyIdentifier) == signer
        certificate.verify_directly_issued_by(ROOT.certificate)
    assert ROOT.certificate.not_valid_after_utc - NOW > timedelta(days=19 * 365)
    assert timedelta(days=9 * 365) < ISSUING.certificate.not_valid_after_utc - NOW < timedelta(days=11 * 365)


def test_two_installations_do_not_share_a_subject() -> None:
    other_root = make_root(trust_domain=DOMAIN, now=NOW)
    other_issuing = make_issuing_authority(other_root, trust_domain=DOMAIN, now=NOW)
    subjects = {item.certificate.subject for item in (ROOT, ISSUING, other_root, other_issuing)}
    assert len(subjects) == 4


def test_a_long_trust_domain_fits_into_the_ca_names() -> None:
    domain = ".".join(["a" * 60] * 4)
    root = make_root(trust_domain=domain, now=NOW)
    make_issuing_authority(root, trust_domain=domain, now=NOW).certificate.verify_directly_issued_by(root.certificate)


def test_the_authority_does_not_show_its_key() -> None:
    assert "key" not in repr(ROOT).replace("SubjectPublicKey", "")


def test_a_leaf_names_its_user_and_allows_client_authentication_only() -> None:
    certificate = leaf()
    assert certificate.subject == x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "alice")])
    assert extension(certificate, x509.SubjectAlternativeName) == x509.SubjectAlternativeName(
        [x509.UniformResourceIdentifier("spiffe://handclasp.example/user/alice")]
    )
    assert extension(certificate, x509.ExtendedKeyUsage) == x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
    assert extension(certificate, x509.BasicConstraints) == x509.BasicConstraints(ca=False, path_length=None)
    usage = extension(certificate, x509.KeyUsage)
    assert usage is not None
    assert (usage.digital_signature, usage.key_encipherment, usage.key_cert_sign) == (True, False, False)
    assert critical(certificate) == {ExtensionOID.BASIC_CONSTRAINTS, ExtensionOID.KEY_USAGE}
    assert certificate.public_key() == KEY.public_key()


def test_a_leaf_points_at_its_issuer_and_chains_to_the_root() -> None:
    certificate = leaf()
    identifier = extension(certificate, x509.AuthorityKeyIdentifier)
    issuer_identifier = extension(ISSUING.certificate, x509.SubjectKeyIdentifier)
    assert identifier is not None
    assert issuer_identifier is not None
    assert identifier.key_identifier == issuer_identifier.digest
    own = x509.SubjectKeyIdentifier.from_public_key(KEY.public_key())
    assert extension(certificate, x509.SubjectKeyIdentifier) == own
    path, anchor = build_path(certificate, [ISSUING.certificate], [ROOT.certificate], now=NOW)
    assert (path, anchor) == ((certificate, ISSUING.certificate), ROOT.certificate)


def test_a_leaf_is_backdated_and_ends_after_its_lifetime_in_whole_seconds() -> None:
    certificate = leaf(days=1)
    second = NOW.replace(microsecond=0)
    assert certificate.not_valid_before_utc == second - timedelta(minutes=5)
    assert certificate.not_valid_after_utc == second + timedelta(days=1)


def test_a_leaf_does_not_outlive_its_authority() -> None:
    assert leaf(days=20 * 365).not_valid_after_utc == ISSUING.certificate.not_valid_after_utc


def test_an_expired_authority_signs_nothing() -> None:
    late = ISSUING.certificate.not_valid_after_utc
    with refused(Reason.ISSUING_CA_EXPIRED, kind=FailedPrecondition):
        issue_leaf(ISSUING, subject=ALICE, public_key=KEY.public_key(), now=late, lifetime=timedelta(days=1))


def test_serials_are_random_positive_and_of_159_bits() -> None:
    serials = [leaf().serial_number for _ in range(200)]
    assert len(set(serials)) == 200
    assert all(0 < serial < 2**159 for serial in serials)
    # All 200 below 2**158 by chance: one in 2**200.
    assert max(serials) >= 2**158


def test_an_rsa_leaf_may_encipher_keys_too() -> None:
    public_key = rsa_key().public_key()
    certificate = issue_leaf(ISSUING, subject=ALICE, public_key=public_key, now=NOW, lifetime=timedelta(days=1))
    usage = extension(certificate, x509.KeyUsage)
    assert usage is not None
    assert (usage.digital_signature, usage.key_encipherment) == (True, True)


def test_the_longest_user_id_fits() -> None:
    user_id = "a" * 63
    assert leaf(LeafSubject(user_id, DOMAIN)).subject.rfc4514_string() == f"CN={user_id}"


def test_server_names_bring_server_authentication() -> None:
    certificate = leaf(LeafSubject("executor", DOMAIN, ("Run.Example.org", "192.0.2.1", "2001:db8::1")))
    assert extension(certificate, x509.ExtendedKeyUsage) == x509.ExtendedKeyUsage(
        [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
    )
    assert extension(certificate, x509.SubjectAlternativeName) == x509.SubjectAlternativeName(
        [
            x509.UniformResourceIdentifier("spiffe://handclasp.example/user/executor"),
            x509.DNSName("run.example.org"),
            x509.IPAddress(ipaddress.ip_address("192.0.2.1")),
            x509.IPAddress(ipaddress.ip_address("2001:db8::1")),
        ]
    )


def test_the_services_own_certificate_is_for_servers_only() -> None:
    names = ("localhost", "127.0.0.1")
    certificate = issue_server_certificate(
        ISSUING, names=names, public_key=KEY.public_key(), now=NOW, lifetime=timedelta(days=1)
    )
    assert extension(certificate, x509.ExtendedKeyUsage) == x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    assert extension(certificate, x509.SubjectAlternativeName) == x509.SubjectAlternativeName(
        [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    )
    with refused(Reason.FIELD_INVALID, "server_names"):
        issue_server_certificate(ISSUING, names=(), public_key=KEY.public_key(), now=NOW, lifetime=timedelta(days=1))


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "a..b",
        "a.example.",
        ".example",
        "*.example.org",
        "-a.example",
        "a-.example",
        "a_b.example",
        "a b",
        "a.example\n",
        "bücher.example",
        "a" * 64,
        ".".join(["a" * 50] * 6),
        "1.2.3",
        "1.2.3.4.5",
        "256.1.1.1",
        "[::1]",
        "::1%eth0",
        "192.0.2.0/24",
        "https://a.example",
        "a.example:443",
        "a\x00b.example",
        "\ud800",
    ],
)
def test_what_is_no_server_name_is_refused(text: str) -> None:
    with refused(Reason.FIELD_INVALID, "server_names"):
        parse_server_name(text)


def test_server_names_that_are_some() -> None:
    assert parse_server_name("xn--bcher-kva.Example") == x509.DNSName("xn--bcher-kva.example")
    assert parse_server_name("a" * 63) == x509.DNSName("a" * 63)
    assert parse_server_name("3com.example") == x509.DNSName("3com.example")


def test_private_keys_are_encrypted_when_there_is_a_passphrase() -> None:
    plain, sealed = key_to_pem(KEY, None), key_to_pem(KEY, b"open sesame")
    assert plain.startswith(b"-----BEGIN PRIVATE KEY-----")
    assert sealed.startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
    for pem, passphrase in ((plain, None), (sealed, b"open sesame")):
        loaded = load_pem_private_key(pem, passphrase)
        assert loaded.public_key() == KEY.public_key()
    with pytest.raises(ValueError, match=r"."):
        load_pem_private_key(sealed, b"wrong")


def test_generated_keys_are_of_the_kind_asked_for() -> None:
    assert generate_key("EC P-256").curve.name == "secp256r1"
    assert generate_key("EC P-384").curve.name == "secp384r1"


def test_pem_holds_the_certificates_in_order() -> None:
    certificate = leaf()
    loaded = x509.load_pem_x509_certificates(certificate_pem(certificate, ISSUING.certificate).encode())
    assert loaded == [certificate, ISSUING.certificate]


def test_the_twin_has_another_fingerprint_and_the_same_tbs() -> None:
    certificate = leaf()
    twin_der = signature_twin(certificate)
    twin = x509.load_der_x509_certificate(twin_der)
    twin.verify_directly_issued_by(ISSUING.certificate)
    assert fingerprint(twin_der) != certificate.fingerprint(hashes.SHA256()).hex()
    assert tbs_fingerprint(twin) == tbs_fingerprint(certificate)
    assert tbs_fingerprint(leaf()) != tbs_fingerprint(certificate)


def test_fingerprints_and_serials_are_lower_case_hexadecimal() -> None:
    assert fingerprint(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert serial_hex(0x0ABC) == "abc"
    assert serial_hex(0) == "0"
