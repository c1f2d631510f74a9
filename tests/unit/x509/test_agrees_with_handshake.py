"""What the rules let in, gRPC's handshake lets in too: a certificate on file that cannot be used helps nobody.

Real handshakes over loopback. The other way round does not hold, and is not meant to: the handshake lets in weak keys
and hashes, certificates of version 1, and a CA's certificate as a client's.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent import futures
from datetime import UTC, datetime, timedelta
from typing import cast

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding

from handclasp.certificate_service.x509.anchors import read_anchor
from handclasp.certificate_service.x509.issuing import (
    LeafSubject,
    certificate_pem,
    generate_key,
    issue_leaf,
    issue_server_certificate,
    key_to_pem,
    make_issuing_authority,
    make_root,
)
from handclasp.certificate_service.x509.uploaded import TrustAnchorCertificate, check_leaf, read_upload, verify_chain
from handclasp.errors import InvalidArgument
from tests.support.outside_ca import (
    ANY_PURPOSE,
    CLIENT_AUTH,
    SERVER_AUTH,
    UNKNOWN_EXTENSION,
    Issued,
    OutsideCA,
    key_usage,
    name,
    rsa_key,
    signature_twin,
    uri,
)

NOW = datetime.now(UTC)
DOMAIN = "handclasp.example"
OURS_ROOT = make_root(trust_domain=DOMAIN, now=NOW)
OURS = make_issuing_authority(OURS_ROOT, trust_domain=DOMAIN, now=NOW)
SERVER_KEY = generate_key("EC P-256")
SERVER = issue_server_certificate(
    OURS, names=["localhost"], public_key=SERVER_KEY.public_key(), now=NOW, lifetime=timedelta(days=1)
)

ROOT = OutsideCA()
RSA_ROOT = OutsideCA("RSA CA", key=rsa_key())
ED_ROOT = OutsideCA("Ed25519 CA", key=ed25519.Ed25519PrivateKey.generate())
P521_ROOT = OutsideCA("P-521 CA", key=ec.generate_private_key(ec.SECP521R1()))
PLAIN_ROOT = OutsideCA("openssl req -x509 CA", usage=None)
CONSTRAINTS = x509.NameConstraints(
    [x509.DNSName("a.example"), uri("a.example"), x509.DirectoryName(name("PARTNER"))], [x509.RFC822Name("b.example")]
)
CONSTRAINED = ROOT.intermediate("Constrained CA", extensions=[(CONSTRAINTS, True)])
ANCHORS = [ROOT, RSA_ROOT, ED_ROOT, P521_ROOT, PLAIN_ROOT]


def pss(digest: hashes.SHA256 | hashes.SHA512) -> padding.PSS:
    return padding.PSS(padding.MGF1(digest), digest.digest_size)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    class Echo(grpc.GenericRpcHandler):
        def service(self, _details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
            return grpc.unary_unary_rpc_method_handler(lambda request, _context: request)

    server = grpc.server(futures.ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((Echo(),))
    chain = certificate_pem(SERVER, OURS.certificate).encode()
    bundle = certificate_pem(OURS_ROOT.certificate, OURS.certificate) + "".join(ca.pem for ca in ANCHORS)
    credentials = grpc.ssl_server_credentials([(key_to_pem(SERVER_KEY, None), chain)], bundle.encode(), True)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


def shakes_hands(address: str, certificates: str, key_pem: str) -> bool:
    credentials = grpc.ssl_channel_credentials(
        certificate_pem(OURS_ROOT.certificate).encode(), key_pem.encode(), certificates.encode()
    )
    options = [("grpc.ssl_target_name_override", "localhost"), ("grpc.use_local_subchannel_pool", 1)]
    with grpc.secure_channel(address, credentials, options) as channel:
        try:
            call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/any/Method")
            return call(b"x", timeout=10) == b"x"
        except grpc.RpcError as error:
            if cast("grpc.Call", error).code() is grpc.StatusCode.UNAVAILABLE:
                return False
            raise


def is_let_in(issued: Issued) -> bool:
    anchors = [TrustAnchorCertificate(ca.name.rfc4514_string(), read_anchor(pem=ca.pem, now=NOW)) for ca in ANCHORS]
    try:
        chain = read_upload(pem=issued.pem)
        check_leaf(chain, trust_domain=DOMAIN, now=NOW)
        verify_chain(chain, anchors, now=NOW)
    except InvalidArgument:
        return False
    return True


@pytest.mark.parametrize("kind", ["EC P-256", "EC P-384", "RSA"])
def test_leaves_of_our_own_are_let_in(address: str, kind: str) -> None:
    key = rsa_key() if kind == "RSA" else generate_key("EC P-384" if kind == "EC P-384" else "EC P-256")
    subject = LeafSubject("alice", DOMAIN)
    leaf = issue_leaf(OURS, subject=subject, public_key=key.public_key(), now=NOW, lifetime=timedelta(hours=1))
    key_pem = key_to_pem(key, None).decode()
    assert shakes_hands(address, certificate_pem(leaf), key_pem)
    assert shakes_hands(address, certificate_pem(leaf, OURS.certificate), key_pem)
    twin = x509.load_der_x509_certificate(signature_twin(leaf))
    assert shakes_hands(address, certificate_pem(twin), key_pem)


@pytest.mark.parametrize(
    "issued",
    [
        ROOT.issue(),
        ROOT.intermediate().intermediate("Lower CA").issue(),
        ROOT.issue(key=ec.generate_private_key(ec.SECP384R1())),
        ROOT.issue(key=rsa_key()),
        ROOT.issue(key=rsa_key(4096)),
        ROOT.issue(purposes=None),
        ROOT.issue(purposes=(SERVER_AUTH, CLIENT_AUTH)),
        ROOT.issue(purposes=(ANY_PURPOSE, CLIENT_AUTH)),
        ROOT.issue(usage=None, ca=None),
        ROOT.issue(""),
        ROOT.issue(extensions=[(UNKNOWN_EXTENSION, False)]),
        ROOT.issue(extensions=[(x509.InhibitAnyPolicy(0), True)]),
        ROOT.intermediate(usage=None).issue(),
        ROOT.intermediate(purposes=(CLIENT_AUTH,)).issue(),
        ROOT.intermediate(path_length=0).issue(),
        ED_ROOT.issue(),
        P521_ROOT.issue(),
        PLAIN_ROOT.issue(),
        RSA_ROOT.issue(),
        RSA_ROOT.issue(signature_hash=hashes.SHA512()),
        RSA_ROOT.issue(rsa_padding=pss(hashes.SHA256())),
        RSA_ROOT.issue(rsa_padding=pss(hashes.SHA512()), signature_hash=hashes.SHA512()),
        CONSTRAINED.issue(alternative=[x509.DNSName("x.a.example"), uri("spiffe://a.example/x")]),
        CONSTRAINED.issue(alternative=[x509.RFC822Name("me@c.example")]),
    ],
)
def test_what_the_rules_let_in_the_handshake_lets_in(address: str, issued: Issued) -> None:
    assert is_let_in(issued)
    assert shakes_hands(address, issued.pem, issued.key_pem)


@pytest.mark.parametrize(
    "issued",
    [
        ROOT.issue(not_after=NOW - timedelta(hours=1)),
        ROOT.issue(not_before=NOW + timedelta(hours=1)),
        ROOT.issue(purposes=(SERVER_AUTH,)),
        ROOT.issue(purposes=(ANY_PURPOSE,)),
        ROOT.issue(usage=key_usage("key_agreement")),
        ROOT.issue(extensions=[(UNKNOWN_EXTENSION, True)]),
        ROOT.issue(extensions=[(x509.SubjectKeyIdentifier(b"critical"), True)]),
        ROOT.intermediate(purposes=(SERVER_AUTH,)).issue(),
        ROOT.intermediate(purposes=(ANY_PURPOSE,)).issue(),
        ROOT.intermediate(basic_constraints=False).issue(),
        ROOT.intermediate(path_length=0).intermediate("Lower CA").issue(),
        ROOT.intermediate(extensions=[(x509.PolicyConstraints(0, None), True)]).issue(),
        OutsideCA().issue(),
        OutsideCA("Unheard of").issue(),
        ROOT.issue(key=ed25519.Ed25519PrivateKey.generate()),
        ROOT.issue(key=ec.generate_private_key(ec.SECP521R1())),
        RSA_ROOT.issue(signature_hash=hashes.SHA3_256()),
        CONSTRAINED.issue(),
        CONSTRAINED.issue("other", alternative=[x509.DNSName("a.example")]),
        CONSTRAINED.issue(alternative=[x509.DNSName("b.example")]),
        CONSTRAINED.issue(alternative=[uri("https://b@a.example/")]),
        CONSTRAINED.issue(alternative=[x509.RFC822Name("me@b.example")]),
    ],
)
def test_what_the_handshake_refuses_the_rules_refuse_first(address: str, issued: Issued) -> None:
    assert not shakes_hands(address, issued.pem, issued.key_pem)
    assert not is_let_in(issued)
