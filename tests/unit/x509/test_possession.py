from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from shutil import which

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.x509 import load_der_x509_certificate

from handclasp.certificate_service.x509.fingerprints import fingerprint
from handclasp.certificate_service.x509.possession import check_possession
from handclasp.client.possession import make_statement, sign_statement
from handclasp.errors import Reason
from tests.support.outside_ca import Issued, OutsideCA, huge_rsa_certificate, rsa_key
from tests.unit.x509.refusals import NOW, refused

CA = OutsideCA(now=NOW)
LEAF = CA.issue()


def statement(
    leaf: Issued = LEAF, domain: str = "handclasp.example", user: str = "bob", signed_at: datetime = NOW
) -> str:
    return make_statement(trust_domain=domain, user_id=user, fingerprint=fingerprint(leaf.der), signed_at=signed_at)


def check(text: str, signature: bytes | None = None, leaf: Issued = LEAF, now: datetime = NOW) -> None:
    check_possession(
        statement=text,
        signature=sign_statement(leaf.key, text) if signature is None else signature,
        leaf=leaf.certificate,
        trust_domain="handclasp.example",
        user_id="bob",
        now=now,
    )


def test_the_statement_is_five_lines() -> None:
    assert statement().split("\n") == [
        "handclasp possession proof v1",
        "handclasp.example",
        "bob",
        fingerprint(LEAF.der),
        "2030-01-31T12:00:00Z",
        "",
    ]


def test_the_time_in_the_statement_is_utc() -> None:
    there = timezone(timedelta(hours=5, minutes=30))
    assert statement(signed_at=NOW.astimezone(there)) == statement()


@pytest.mark.parametrize(
    "key", [ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP384R1()), rsa_key()]
)
def test_whoever_holds_the_key_passes(key: CertificateIssuerPrivateKeyTypes) -> None:
    leaf = CA.issue(key=key)
    check(statement(leaf), leaf=leaf)


@pytest.mark.skipif(which("openssl") is None, reason="openssl is not on PATH")
@pytest.mark.parametrize("key", [ec.generate_private_key(ec.SECP384R1()), rsa_key()])
def test_openssl_makes_signatures_that_pass(key: CertificateIssuerPrivateKeyTypes, tmp_path: Path) -> None:
    leaf = CA.issue(key=key)
    text = statement(leaf)
    (tmp_path / "key.pem").write_text(leaf.key_pem)
    (tmp_path / "statement").write_text(text)
    command = ["openssl", "dgst", "-sha256", "-sign", str(tmp_path / "key.pem"), str(tmp_path / "statement")]
    check(text, subprocess.run(command, check=True, capture_output=True).stdout, leaf)


@pytest.mark.parametrize("offset", [timedelta(minutes=-10), timedelta(0), timedelta(minutes=2)])
def test_the_statement_is_good_for_a_while(offset: timedelta) -> None:
    now = NOW.replace(microsecond=0)
    check(statement(signed_at=now + offset), now=now)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (statement(domain="other.example"), "another trust domain"),
        (statement(user="alice"), "another user"),
        (statement(CA.issue()), "another certificate"),
        (statement(signed_at=NOW - timedelta(minutes=10, seconds=1)), "may be ten minutes old"),
        (statement(signed_at=NOW + timedelta(minutes=2, seconds=1)), "two minutes in the future"),
        (statement().replace("v1", "v2"), "first line"),
        (statement().replace("12:00:00Z", "12:00:00"), "fifth line"),
        (statement().replace("12:00:00Z", "12:00:00+00:00"), "fifth line"),
        (statement().replace("2030-01-31", "2030-02-31"), "fifth line"),
        (statement().replace("2030-01-31", "0000-01-31"), "fifth line"),
        (statement().replace("12:00:00Z", "٠٢:00:00Z"), "fifth line"),
        (statement().rstrip("\n"), "five lines"),
        (statement() + "\n", "five lines"),
        (statement().replace("\n", "\r\n"), "first line"),
        ("", "five lines"),
        ("x" * 2000, "too long"),
        ("\n" * 500, "five lines"),
    ],
)
def test_a_statement_that_says_something_else_is_refused(text: str, word: str) -> None:
    with refused(Reason.POSSESSION_PROOF_INVALID, word):
        check(text)


@pytest.mark.parametrize(
    "signature",
    [
        b"",
        b"garbage",
        b"\x30\x06\x02\x01\x00\x02\x01\x00",
        sign_statement(CA.issue().key, statement()),
        sign_statement(LEAF.key, statement(user="alice")),
        sign_statement(rsa_key(), statement()),
        LEAF.key.sign(statement().encode(), ec.ECDSA(hashes.SHA384()))
        if isinstance(LEAF.key, ec.EllipticCurvePrivateKey)
        else b"",
    ],
    # Signatures are new each time, and the processes of a parallel run must call the tests alike.
    ids=["empty", "garbage", "zeros", "another key", "another statement", "another kind of key", "another hash"],
)
def test_a_signature_that_does_not_hold_is_refused(signature: bytes) -> None:
    with refused(Reason.POSSESSION_PROOF_INVALID, "not by the certificate's key"):
        check(statement(), signature)


def test_an_endless_signature_is_refused() -> None:
    with refused(Reason.POSSESSION_PROOF_INVALID, "too long"):
        check(statement(), b"\x01" * 1025)


def test_nothing_is_computed_with_a_huge_key() -> None:
    huge = load_der_x509_certificate(huge_rsa_certificate(16384))
    with refused(Reason.KEY_NOT_ACCEPTED, "16384 bits"):
        check_possession(
            statement=statement(), signature=b"x", leaf=huge, trust_domain="x", user_id="bob", now=datetime.now(UTC)
        )


def test_other_keys_cannot_sign_statements() -> None:
    with refused(Reason.KEY_NOT_ACCEPTED):
        sign_statement(ed25519.Ed25519PrivateKey.generate(), statement())
