"""What cannot work is refused before gRPC sees it."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from handclasp.serving.tls import (
    ReloadingCredentials,
    TlsIdentity,
    TlsMaterialError,
    compose_roots,
)
from tests.support.outside_ca import Issued, OutsideCA, glued_pem, key_usage, rsa_key


def identity_of(leaf: Issued) -> TlsIdentity:
    return TlsIdentity(leaf.key_pem.encode(), leaf.pem.encode())


def test_an_identity_with_its_intermediate_is_accepted() -> None:
    leaf = OutsideCA().intermediate().issue()
    assert identity_of(leaf).check() == leaf.certificate


def test_an_rsa_identity_is_accepted() -> None:
    assert identity_of(OutsideCA().issue(key=rsa_key())).check()


def test_no_repr_shows_the_key() -> None:
    assert "PRIVATE KEY" not in repr(identity_of(OutsideCA().issue()))


@pytest.mark.parametrize("key", [ec.generate_private_key(ec.SECP521R1()), ed25519.Ed25519PrivateKey.generate()])
def test_keys_that_clients_refuse_are_refused(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> None:
    with pytest.raises(TlsMaterialError, match="kind of key"):
        identity_of(OutsideCA().issue(key=key)).check()


def test_a_key_of_another_certificate_is_refused() -> None:
    ca = OutsideCA()
    with pytest.raises(TlsMaterialError, match="does not belong"):
        TlsIdentity(ca.issue().key_pem.encode(), ca.issue().pem.encode()).check()


def test_an_encrypted_key_is_refused() -> None:
    leaf = OutsideCA().issue()
    encrypted = leaf.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x"))
    with pytest.raises(TlsMaterialError, match="encrypted"):
        TlsIdentity(encrypted, leaf.pem.encode()).check()


@pytest.mark.parametrize(
    "garbage", [b"", b"garbage", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_garbage_is_refused(garbage: bytes) -> None:
    leaf = OutsideCA().issue()
    with pytest.raises(TlsMaterialError):
        TlsIdentity(garbage, leaf.pem.encode()).check()
    with pytest.raises(TlsMaterialError):
        TlsIdentity(leaf.key_pem.encode(), garbage).check()
    with pytest.raises(TlsMaterialError):
        compose_roots([garbage])


def test_a_chain_out_of_order_is_refused() -> None:
    leaf = OutsideCA().intermediate().issue()
    other = OutsideCA().intermediate()
    with pytest.raises(TlsMaterialError, match="out of order"):
        TlsIdentity(leaf.key_pem.encode(), (Issued(leaf.certificate, leaf.key).pem + other.pem).encode()).check()


def test_roots_keep_their_order_and_lose_repetitions() -> None:
    first, second = OutsideCA("first"), OutsideCA("second")
    roots = compose_roots([second.pem.strip(), f"some text\n{first.pem}", second.pem])
    assert roots.decode() == second.pem + first.pem


def test_roots_that_are_no_ca_are_refused() -> None:
    ca = OutsideCA()
    with pytest.raises(TlsMaterialError, match="not a CA"):
        compose_roots([ca.pem, ca.issue("partner").pem])
    with pytest.raises(TlsMaterialError, match="not a CA"):
        compose_roots([OutsideCA(basic_constraints=False).pem])
    with pytest.raises(TlsMaterialError, match="may not sign"):
        compose_roots([OutsideCA(usage=key_usage("digital_signature")).pem])


def test_roots_glued_together_are_put_on_lines_of_their_own() -> None:
    first, second = OutsideCA("first"), OutsideCA("second")
    assert compose_roots([glued_pem(first.certificate, second.certificate)]).decode() == first.pem + second.pem


def test_roots_of_which_one_would_be_skipped_are_refused() -> None:
    first, second = OutsideCA("first"), OutsideCA("second")
    with pytest.raises(TlsMaterialError):
        compose_roots([first.pem + second.pem.replace("-----END CERTIFICATE-----", "")])


def test_no_roots_are_refused() -> None:
    with pytest.raises(TlsMaterialError, match="empty"):
        compose_roots([])


def test_credentials_are_checked_when_they_are_made_and_when_they_are_replaced() -> None:
    ca = OutsideCA()
    identity, roots = identity_of(ca.issue()), ca.pem.encode()
    bad_roots = ca.issue().pem.encode()
    with pytest.raises(TlsMaterialError):
        ReloadingCredentials(identity, bad_roots)
    credentials = ReloadingCredentials(identity, roots)
    with pytest.raises(TlsMaterialError):
        credentials.replace(identity, bad_roots)
    with pytest.raises(TlsMaterialError, match="one-way"):
        credentials.replace(identity, None)
