from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from shutil import which

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes

from handclasp.certificate_service.x509.anchors import conflict, conflict_with_own, read_anchor
from handclasp.certificate_service.x509.issuing import make_issuing_authority, make_root
from handclasp.errors import Reason
from tests.support import der as asn1
from tests.support.outside_ca import (
    CLIENT_AUTH,
    SERVER_AUTH,
    UNKNOWN_EXTENSION,
    OutsideCA,
    huge_rsa_certificate,
    key_usage,
    rsa_key,
    self_signed,
    version_1,
)
from tests.unit.x509.refusals import NOW, refused

ROOT = OutsideCA(now=NOW)


@pytest.mark.parametrize(
    "ca",
    [
        ROOT,
        ROOT.intermediate(),
        OutsideCA(now=NOW, usage=None),
        OutsideCA(now=NOW, key_identifiers=False),
        OutsideCA(now=NOW, purposes=(CLIENT_AUTH,)),
        OutsideCA(now=NOW, key=ec.generate_private_key(ec.SECP384R1())),
        OutsideCA(now=NOW, key=ec.generate_private_key(ec.SECP521R1())),
        OutsideCA(now=NOW, key=ed25519.Ed25519PrivateKey.generate()),
        OutsideCA(now=NOW, key=rsa_key()),
    ],
)
def test_cas_are_read_from_pem_and_der(ca: OutsideCA) -> None:
    assert read_anchor(pem=ca.pem, now=NOW) == ca.certificate
    assert read_anchor(der=ca.der, now=NOW) == ca.certificate


@pytest.mark.skipif(which("openssl") is None, reason="openssl is not on PATH")
def test_what_openssl_makes_is_taken(tmp_path: Path) -> None:
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=x", "-days", "3650"]
    command += ["-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "ca.pem")]
    subprocess.run(command, check=True, capture_output=True)
    read_anchor(pem=(tmp_path / "ca.pem").read_text(), now=datetime.now(UTC) + timedelta(minutes=1))


@pytest.mark.parametrize(
    ("der", "reason", "word"),
    [
        (ROOT.issue().der, Reason.ANCHOR_NOT_A_CA, "CA:TRUE"),
        (self_signed(now=NOW).der, Reason.ANCHOR_NOT_A_CA, "CA:TRUE"),
        (OutsideCA(now=NOW, basic_constraints=False).der, Reason.ANCHOR_NOT_A_CA, "CA:TRUE"),
        (OutsideCA(now=NOW, usage=key_usage("crl_sign")).der, Reason.ANCHOR_NOT_A_CA, "keyCertSign"),
        (version_1(ROOT).der, Reason.ANCHOR_NOT_A_CA, "version 1"),
        (OutsideCA(now=NOW, not_after=NOW - timedelta(hours=1)).der, Reason.CERTIFICATE_EXPIRED, "expired"),
        (OutsideCA(now=NOW, not_before=NOW + timedelta(hours=1)).der, Reason.CERTIFICATE_NOT_YET_VALID, "valid only"),
        (OutsideCA(now=NOW, purposes=(SERVER_AUTH,)).der, Reason.CLIENT_AUTH_NOT_ALLOWED, "clientAuth"),
        (OutsideCA(now=NOW, extensions=[(UNKNOWN_EXTENSION, True)]).der, Reason.CERTIFICATE_INVALID, "critical"),
        (OutsideCA(now=NOW, key=rsa_key(1024)).der, Reason.KEY_NOT_ACCEPTED, "1024 bits"),
        (OutsideCA(now=NOW, key=ed448.Ed448PrivateKey.generate()).der, Reason.KEY_NOT_ACCEPTED, "Ed448"),
        (huge_rsa_certificate(16384, like=ROOT.certificate), Reason.KEY_NOT_ACCEPTED, "16384 bits"),
        (huge_rsa_certificate(65536, like=ROOT.certificate), Reason.KEY_NOT_ACCEPTED, "65536 bits"),
        (ROOT.der[:-1], Reason.CERTIFICATE_INVALID, "cannot be read"),
        (ROOT.der + b"\x00", Reason.CERTIFICATE_INVALID, "cannot be read"),
        (b"", Reason.CERTIFICATE_INVALID, "no CA certificate"),
    ],
)
def test_others_are_refused_with_their_reason(der: bytes, reason: Reason, word: str) -> None:
    with refused(reason, word):
        read_anchor(der=der, now=NOW)


def test_one_at_a_time() -> None:
    with refused(Reason.CERTIFICATE_INVALID, "one trust anchor at a time"):
        read_anchor(pem=ROOT.pem * 2, now=NOW)


def sha1(ca: OutsideCA) -> bytes:
    """The CA's certificate with the algorithm ecdsa-with-SHA1 named for its signature."""
    tbs, _, signature = asn1.children(ca.der)
    parts = asn1.children(tbs)
    algorithm = asn1.sequence(bytes.fromhex("06072a8648ce3d0401"))
    return asn1.sequence(asn1.sequence(*parts[:2], algorithm, *parts[3:]), algorithm, signature)


def test_the_hash_of_a_signature_matters_unless_it_is_its_own() -> None:
    read_anchor(der=sha1(ROOT), now=NOW)
    with refused(Reason.CERTIFICATE_INVALID, "SHA-1"):
        read_anchor(der=sha1(ROOT.intermediate()), now=NOW)


def test_a_self_signature_that_does_not_hold_is_refused() -> None:
    changed = ROOT.der.replace(ROOT.certificate.serial_number.to_bytes(20, "big"), bytes([1] * 20))
    assert changed != ROOT.der
    with refused(Reason.CERTIFICATE_INVALID, "not signed by its own key"):
        read_anchor(der=changed, now=NOW)


def ca(
    common_name: str = "CA",
    key: CertificateIssuerPrivateKeyTypes | None = None,
    identifier: bytes | None = None,
    key_identifiers: bool = True,
) -> x509.Certificate:
    """A CA certificate whose subject key identifier may be somebody else's."""
    if identifier is None:
        return OutsideCA(common_name, key=key, now=NOW, key_identifiers=key_identifiers).certificate
    extensions = [(x509.SubjectKeyIdentifier(identifier), False)]
    return OutsideCA(common_name, key=key, now=NOW, key_identifiers=False, extensions=extensions).certificate


class TestConflict:
    def test_same_subject_and_key_identifier_with_another_key(self) -> None:
        anchor, harmless, rival = ca(identifier=b"same"), ca("Another", identifier=b"same"), ca(identifier=b"same")
        assert conflict(anchor, [harmless, rival]) == rival

    def test_the_subject_in_other_letters(self) -> None:
        assert conflict(ca("Some  ca", identifier=b"same"), [ca("some CA", identifier=b"same")]) is not None

    def test_an_anchor_without_key_identifier_fits_all_leaves_of_its_name(self) -> None:
        with_identifier, without = ca(), ca(key_identifiers=False)
        assert conflict(without, [with_identifier]) == with_identifier
        assert conflict(with_identifier, [without]) == without
        assert conflict(without, [ca(key_identifiers=False)]) is not None

    def test_one_subject_with_different_key_identifiers_is_fine(self) -> None:
        assert conflict(ca(), [ca(), ca()]) is None

    def test_the_same_key_in_a_renewed_certificate_is_fine(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        for key_identifiers in (True, False):
            renewed = ca(key=key, key_identifiers=key_identifiers)
            assert conflict(ca(key=key, key_identifiers=key_identifiers), [renewed]) is None

    def test_nothing_to_conflict_with(self) -> None:
        assert conflict(ca(), []) is None


class TestConflictWithOwn:
    root = make_root(trust_domain="handclasp.example", now=NOW)
    issuing = make_issuing_authority(root, trust_domain="handclasp.example", now=NOW)
    own = (root.certificate, issuing.certificate)

    def test_our_own_cas_cannot_be_anchors(self) -> None:
        assert conflict_with_own(self.root.certificate, self.own) == self.root.certificate
        assert conflict_with_own(self.issuing.certificate, self.own) == self.issuing.certificate

    def test_nor_can_our_key_under_another_name(self) -> None:
        assert conflict_with_own(ca("Elsewhere", key=self.issuing.key), self.own) == self.issuing.certificate

    @pytest.mark.parametrize("identified", [True, False])
    def test_nor_can_a_ca_that_passes_for_ours(self, identified: bool) -> None:
        extensions = []
        if identified:
            own = self.issuing.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
            extensions.append((own, False))
        impostor = OutsideCA(now=NOW, key_identifiers=False, extensions=extensions)
        impostor.name = self.issuing.certificate.subject
        leaf = impostor._sign(impostor.name, impostor.key, NOW, NOW + timedelta(days=1), extensions)
        assert conflict_with_own(leaf, self.own) == self.issuing.certificate

    def test_others_can(self) -> None:
        assert conflict_with_own(ROOT.certificate, self.own) is None
        assert conflict_with_own(ca(key_identifiers=False), self.own) is None
