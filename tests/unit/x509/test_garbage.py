"""Whatever is sent, what comes out is a typed refusal, or the thing itself. Never another exception."""

from __future__ import annotations

from contextlib import suppress

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509 import CertificateSigningRequestBuilder, DNSName
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from handclasp.certificate_service.x509.anchors import conflict, read_anchor
from handclasp.certificate_service.x509.issuing import parse_server_name
from handclasp.certificate_service.x509.possession import check_possession
from handclasp.certificate_service.x509.signing_request import read_signing_request
from handclasp.certificate_service.x509.spiffe import claims_trust_domain
from handclasp.certificate_service.x509.uploaded import TrustAnchorCertificate, check_leaf, read_upload, verify_chain
from handclasp.errors import HandclaspError
from tests.support.outside_ca import OutsideCA, huge_rsa_request, name, pem_block, rsa_key, uri
from tests.unit.x509.refusals import NOW

ROOT = OutsideCA(now=NOW)
RSA_ROOT = OutsideCA(key=rsa_key(), now=NOW)
ANCHORS = [TrustAnchorCertificate("ec", ROOT.certificate), TrustAnchorCertificate("rsa", RSA_ROOT.certificate)]
LEAF = ROOT.issue(alternative=[uri("spiffe://other.example/x"), DNSName("a.example")])
REQUEST = (
    CertificateSigningRequestBuilder()
    .subject_name(name("x"))
    .sign(ROOT.key, hashes.SHA256())
    .public_bytes(serialization.Encoding.DER)
)
SEEDS = [
    ROOT.der,
    RSA_ROOT.der,
    LEAF.der,
    RSA_ROOT.intermediate().issue(key=rsa_key()).der,
    REQUEST,
    huge_rsa_request(9000),
]

pytestmark = pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
FEW = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def mutilated(draw: st.DrawFn) -> bytes:
    """A real object with some bytes changed, and perhaps cut short or grown."""
    data = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(0, 3))):
        data[draw(st.integers(0, len(data) - 1))] ^= draw(st.integers(1, 255))
    cut = draw(st.one_of(st.none(), st.integers(0, len(data))))
    return bytes(data[:cut]) + draw(st.one_of(st.just(b""), st.binary(max_size=8)))


@st.composite
def mutilated_pem(draw: st.DrawFn) -> str:
    """Some blocks of real and broken things, with characters changed."""
    labels = st.sampled_from(
        ["CERTIFICATE", "X509 CERTIFICATE", "CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST", "PRIVATE KEY", ""]
    )
    blocks = draw(st.lists(st.builds(pem_block, labels, mutilated()), max_size=3))
    text = draw(st.text(max_size=10)).join(blocks)
    if text and draw(st.booleans()):
        position = draw(st.integers(0, len(text) - 1))
        text = text[:position] + draw(st.text(max_size=3)) + text[position + draw(st.integers(0, 40)) :]
    return text


def read_everything(pem: str | None, der: bytes | None) -> None:
    with suppress(HandclaspError):
        read_signing_request(pem=pem, der=der)
    with suppress(HandclaspError):
        conflict(read_anchor(pem=pem, der=der, now=NOW), [ROOT.certificate, RSA_ROOT.certificate])
    with suppress(HandclaspError):
        chain = read_upload(pem=pem, der=der)
        with suppress(HandclaspError):
            check_leaf(chain, trust_domain="handclasp.example", now=NOW)
        verify_chain(chain, ANCHORS, now=NOW)


@FEW
@given(mutilated())
def test_mutilated_der(data: bytes) -> None:
    read_everything(None, data)


@FEW
@given(mutilated_pem())
def test_mutilated_pem(text: str) -> None:
    read_everything(text, None)


@FEW
@given(st.one_of(st.text(), st.text(alphabet=st.characters())), st.binary())
def test_plain_garbage(text: str, data: bytes) -> None:
    read_everything(text, None)
    read_everything(None, data)
    with suppress(HandclaspError):
        parse_server_name(text)
    claims_trust_domain(text, "handclasp.example")
    with suppress(HandclaspError):
        check_possession(statement=text, signature=data, leaf=LEAF.certificate, trust_domain="x", user_id="y", now=NOW)


@FEW
@given(st.sampled_from(["spiffe", "SPIFFE", "%73piffe"]), st.text(alphabet="/\\@:%.?#[]2e ", max_size=12))
def test_uris_of_odd_shape(scheme: str, rest: str) -> None:
    claims_trust_domain(f"{scheme}:{rest}handclasp.example{rest}", "handclasp.example")
