"""Trust anchors: which are taken, and what they change at the handshake and in decisions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from handclasp.certificates.v1 import certificate_pb2
from handclasp.certificates.v1 import certificate_service_pb2 as pb
from handclasp.errors import (
    AlreadyExists,
    FailedPrecondition,
    HandclaspError,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
)
from tests.rpc.certificate_harness import (
    add_anchor,
    at_once,
    beside,
    counts,
    held,
    refusal,
    trusted_ca,
    upload,
    why,
)
from tests.support.installation import Installation
from tests.support.outside_ca import SERVER_AUTH, Issued, OutsideCA, key_usage

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def handshake(installation: Installation, leaf: Issued) -> str:
    """How a new connection to the mutual TLS port ends: "refused", or "passed" with a leaf that is not on file, or
    "accepted"."""
    async with installation.client(held(leaf)) as client:
        try:
            await client.certificates.ListCertificates(pb.ListCertificatesRequest(page_size=1), timeout=20)
        except (Unavailable, Unauthenticated) as error:
            return {"HANDSHAKE_REFUSED": "refused", "CERTIFICATE_NOT_ACCEPTED": "passed"}[error.reason]
        return "accepted"


async def remove(installation: Installation, name: str) -> None:
    await installation.admin.certificates.RemoveTrustAnchor(pb.RemoveTrustAnchorRequest(name=name))


async def test_what_an_anchor_changes_is_there_at_the_next_handshake(installation: Installation) -> None:
    ca = OutsideCA("Coming and going", now=installation.clock())
    bob = await installation.new_user("regular-user")
    on_file, stranger = ca.issue(), ca.intermediate().issue()

    assert await handshake(installation, on_file) == "refused"
    anchor = await add_anchor(installation, ca)
    assert await handshake(installation, on_file) == "passed", "through the handshake, and not any further"
    assert await handshake(installation, stranger) == "passed"
    await upload(installation, bob, on_file)
    assert await handshake(installation, on_file) == "accepted"
    assert await why(installation, on_file.der) == "ALLOWED"
    assert await why(installation, stranger.der) == "UNKNOWN_CERTIFICATE"

    async with installation.client(held(on_file)) as connected:
        listing = pb.ListCertificatesRequest(page_size=1)
        await connected.certificates.ListCertificates(listing)
        await remove(installation, anchor)
        # Also on a connection that was open before.
        await refusal(connected.certificates.ListCertificates(listing), Unauthenticated, "CERTIFICATE_NOT_ACCEPTED")
    assert await handshake(installation, on_file) == "refused"
    assert await why(installation, on_file.der) == "ANCHOR_REMOVED"

    again = await add_anchor(installation, ca)
    assert again != anchor
    assert await handshake(installation, on_file) == "accepted"
    assert await why(installation, on_file.der) == "ALLOWED"


async def test_only_the_same_ca_certificate_brings_its_certificates_back(installation: Installation) -> None:
    bob = await installation.new_user("regular-user")
    ca = OutsideCA("Renewed", now=installation.clock())
    renewed = OutsideCA("Renewed", key=ca.key, now=ca.now + timedelta(seconds=5))
    anchor = await add_anchor(installation, ca)
    leaf = ca.issue()
    await upload(installation, bob, leaf)
    # The same name and key: no conflict, and no replacement either.
    await add_anchor(installation, renewed)
    await remove(installation, anchor)
    assert await why(installation, leaf.der) == "ANCHOR_REMOVED"


async def test_an_anchor_says_what_it_is(installation: Installation) -> None:
    ca = OutsideCA("Self-described", now=installation.clock())
    admin = installation.admin.certificates
    added = await admin.AddTrustAnchor(pb.AddTrustAnchorRequest(der=ca.der, display_name="Acme’s CA"))
    assert added.name.startswith("trustAnchors/")
    assert added.display_name == "Acme’s CA"
    assert added.subject == "CN=Self-described"
    assert added.fingerprint == ca.certificate.fingerprint(hashes.SHA256()).hex()
    assert added.not_before.seconds == int(ca.certificate.not_valid_before_utc.timestamp())
    assert added.not_after.seconds == int(ca.certificate.not_valid_after_utc.timestamp())
    assert added.created_by == "users/admin"
    assert added.pem == ca.pem
    stored = [item async for item in _anchors(installation) if item.name == added.name]
    assert stored == [added]


async def _anchors(installation: Installation, page_size: int = 0) -> AsyncIterator[certificate_pb2.TrustAnchor]:
    token = ""
    while True:
        page = await installation.admin.certificates.ListTrustAnchors(
            pb.ListTrustAnchorsRequest(page_size=page_size, page_token=token)
        )
        for anchor in page.trust_anchors:
            yield anchor
        token = page.next_page_token
        if not token:
            return


async def test_anchors_are_listed_oldest_first_page_by_page(installation: Installation) -> None:
    added = [
        await add_anchor(installation, OutsideCA(f"Listed {index}", now=installation.clock())) for index in range(3)
    ]
    listed = [anchor.name async for anchor in _anchors(installation, page_size=2)]
    assert listed == sorted(set(listed))
    assert [name for name in listed if name in added] == added
    await refusal(
        installation.admin.certificates.ListTrustAnchors(pb.ListTrustAnchorsRequest(page_size=-1)),
        InvalidArgument,
        "FIELD_INVALID",
    )


async def test_an_anchor_is_there_once(installation: Installation) -> None:
    ca = OutsideCA("Twice", now=installation.clock())
    results = await at_once(*(add_anchor(installation, ca) for _ in range(6)))
    assert sum(isinstance(result, str) for result in results) == 1
    reasons = [result.reason for result in results if isinstance(result, HandclaspError)]
    assert reasons == ["TRUST_ANCHOR_EXISTS"] * 5
    name = next(result for result in results if isinstance(result, str))
    error = await refusal(add_anchor(installation, ca), AlreadyExists, "TRUST_ANCHOR_EXISTS")
    assert name in error.message


def _own(installation: Installation) -> OutsideCA:
    """Another CA that looks like this service's root: same name and key identifier, another key."""
    root = x509.load_pem_x509_certificate(installation.ca_pem)
    lookalike = OutsideCA("replaced below", now=installation.clock(), key_identifiers=False)
    builder = (
        x509.CertificateBuilder()
        .subject_name(root.subject)
        .issuer_name(root.subject)
        .public_key(lookalike.key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(lookalike.now - timedelta(days=1))
        .not_valid_after(lookalike.now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(key_usage("key_cert_sign"), critical=True)
        .add_extension(root.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value, critical=False)
    )
    lookalike.certificate = builder.sign(lookalike.key, hashes.SHA256())
    return lookalike


async def test_anchors_that_tls_stacks_would_confuse_are_refused(installation: Installation) -> None:
    first = OutsideCA("Confusable", now=installation.clock())
    # Without key identifiers, a CA could be any of its name.
    namesake = OutsideCA("CONFUSABLE", now=installation.clock(), key_identifiers=False)
    anchor = await add_anchor(installation, first)
    error = await refusal(add_anchor(installation, namesake), FailedPrecondition, "ANCHOR_CONFLICT")
    assert anchor in error.message
    # With identifiers that differ they are told apart.
    await add_anchor(installation, OutsideCA("Confusable", now=installation.clock()))

    await refusal(add_anchor(installation, _own(installation)), FailedPrecondition, "ANCHOR_CONFLICT")
    bundle = await installation.admin.certificates.GetTrustBundle(pb.GetTrustBundleRequest())
    for own in bundle.authorities:
        await refusal(
            installation.admin.certificates.AddTrustAnchor(pb.AddTrustAnchorRequest(pem=own)),
            FailedPrecondition,
            "ANCHOR_CONFLICT",
        )


async def test_of_concurrent_confusable_anchors_one_is_added(installation: Installation) -> None:
    rivals = [OutsideCA("Rivals", now=installation.clock(), key_identifiers=False) for _ in range(4)]
    results = await at_once(*(add_anchor(installation, rival) for rival in rivals))
    assert sum(isinstance(result, str) for result in results) == 1
    assert [result.reason for result in results if isinstance(result, HandclaspError)] == ["ANCHOR_CONFLICT"] * 3


def _leaf(ca: OutsideCA) -> pb.AddTrustAnchorRequest:
    return pb.AddTrustAnchorRequest(pem=ca.issue().pem)


def _ca(**kind: Any) -> Callable[[OutsideCA], pb.AddTrustAnchorRequest]:
    return lambda ca: pb.AddTrustAnchorRequest(pem=ca.intermediate("below", **kind).pem)


NOT_TAKEN: dict[str, tuple[Callable[[OutsideCA], pb.AddTrustAnchorRequest], str]] = {
    "nothing": (lambda _: pb.AddTrustAnchorRequest(), "FIELD_INVALID"),
    "garbage": (lambda _: pb.AddTrustAnchorRequest(der=b"\x30\x00"), "CERTIFICATE_INVALID"),
    "two": (lambda ca: pb.AddTrustAnchorRequest(pem=ca.pem + OutsideCA().pem), "CERTIFICATE_INVALID"),
    "with its key": (lambda ca: pb.AddTrustAnchorRequest(pem=ca.pem + ca.issue().key_pem), "CERTIFICATE_INVALID"),
    "a leaf": (_leaf, "ANCHOR_NOT_A_CA"),
    "a CA that does not say so": (_ca(basic_constraints=False), "ANCHOR_NOT_A_CA"),
    "one that may not sign": (_ca(usage=key_usage("crl_sign")), "ANCHOR_NOT_A_CA"),
    "one for servers": (_ca(purposes=(SERVER_AUTH,)), "CLIENT_AUTH_NOT_ALLOWED"),
    "with a weak key": (_ca(key=ec.generate_private_key(ec.SECP256K1())), "KEY_NOT_ACCEPTED"),
    "a name that is too long": (
        lambda ca: pb.AddTrustAnchorRequest(pem=ca.pem, display_name="x" * 201),
        "FIELD_INVALID",
    ),
    "a name with a line feed": (lambda ca: pb.AddTrustAnchorRequest(pem=ca.pem, display_name="a\nb"), "FIELD_INVALID"),
}


@pytest.mark.parametrize("what", NOT_TAKEN)
async def test_what_is_not_taken_changes_nothing(installation: Installation, what: str) -> None:
    make, reason = NOT_TAKEN[what]
    request = make(OutsideCA(f"Not taken: {what}", now=installation.clock()))
    async with beside(installation) as database:
        before = await counts(database)
        await refusal(installation.admin.certificates.AddTrustAnchor(request), InvalidArgument, reason)
        assert await counts(database) == before


async def test_anchors_are_valid_now(installation: Installation) -> None:
    now = installation.clock()
    expired = OutsideCA("Expired", now=now, not_after=now - timedelta(minutes=1))
    coming = OutsideCA("Coming", now=now, not_before=now + timedelta(minutes=10))
    await refusal(add_anchor(installation, expired), InvalidArgument, "CERTIFICATE_EXPIRED")
    await refusal(add_anchor(installation, coming), InvalidArgument, "CERTIFICATE_NOT_YET_VALID")
    with installation.clock.ahead(timedelta(hours=1)):
        await add_anchor(installation, coming)


@pytest.mark.parametrize("key", [ec.generate_private_key(ec.SECP521R1()), ed25519.Ed25519PrivateKey.generate()])
async def test_authorities_may_have_keys_that_clients_may_not(installation: Installation, key: Any) -> None:
    bob = await installation.new_user("regular-user")
    ca = OutsideCA(f"{type(key).__name__}", key=key, now=installation.clock())
    await add_anchor(installation, ca)
    leaf = ca.issue()
    await upload(installation, bob, leaf)
    assert await handshake(installation, leaf) == "accepted"


async def test_intermediates_can_be_anchors(installation: Installation) -> None:
    root = OutsideCA("Root nobody trusts", now=installation.clock())
    below = root.intermediate("Trusted alone")
    bob = await installation.new_user("regular-user")
    await add_anchor(installation, below)
    leaf, uncle = below.issue(), root.issue()
    await upload(installation, bob, leaf)
    assert await handshake(installation, leaf) == "accepted"
    assert await handshake(installation, uncle) == "refused"
    await refusal(upload(installation, bob, uncle), InvalidArgument, "CHAIN_NOT_TRUSTED")


async def test_own_authorities_come_first_in_the_bundle(installation: Installation) -> None:
    added = await trusted_ca(installation, "Comes later")
    for client in (installation.admin, installation.relying_party):
        bundle = await client.certificates.GetTrustBundle(pb.GetTrustBundleRequest())
        assert bundle.trust_domain == installation.settings.trust_domain
        root, issuing = (x509.load_pem_x509_certificate(pem.encode()) for pem in bundle.authorities)
        assert root.public_bytes(serialization.Encoding.PEM) == installation.ca_pem
        root.verify_directly_issued_by(root)
        issuing.verify_directly_issued_by(root)
        assert added.pem in bundle.trust_anchors
        assert not set(bundle.authorities) & set(bundle.trust_anchors)
        assert bundle.HasField("read_time")


async def test_the_bundle_is_open_to_anybody_without_the_anchors(installation: Installation) -> None:
    await trusted_ca(installation)
    admins = await installation.admin.certificates.GetTrustBundle(pb.GetTrustBundleRequest())
    regular = await installation.new_user("regular-user", password="a long enough password")
    clients = [
        installation.client(),
        installation.client(await installation.issue(regular)),
        installation.client(user=regular, password="a long enough password"),
    ]
    for client in clients:
        async with client:
            bundle = await client.certificates.GetTrustBundle(pb.GetTrustBundleRequest())
        assert list(bundle.authorities) == list(admins.authorities)
        assert list(bundle.trust_anchors) == []
    # Credentials that are sent have to be right, nevertheless.
    async with installation.client(user=regular, password="a wrong long password") as client:
        await refusal(
            client.certificates.GetTrustBundle(pb.GetTrustBundleRequest()), Unauthenticated, "CREDENTIALS_INVALID"
        )


async def test_who_manages_anchors(installation: Installation) -> None:
    anchor = await add_anchor(installation, OutsideCA("Managed", now=installation.clock()))
    regular = await installation.new_user("regular-user")
    manager = await installation.new_user(grants={"TRUST_MANAGEMENT": "trustAnchors/*"})
    only_one = await installation.new_user(grants={"TRUST_MANAGEMENT": anchor})
    new = pb.AddTrustAnchorRequest(pem=OutsideCA("New", now=installation.clock()).pem)
    removal = pb.RemoveTrustAnchorRequest(name=anchor)
    async with installation.client(await installation.issue(regular)) as client:
        assert not (await client.certificates.ListTrustAnchors(pb.ListTrustAnchorsRequest())).trust_anchors
        for call in (client.certificates.AddTrustAnchor(new), client.certificates.RemoveTrustAnchor(removal)):
            await refusal(call, PermissionDenied, "ACCESS_DENIED")
    async with installation.client(await installation.issue(only_one)) as client:
        listed = await client.certificates.ListTrustAnchors(pb.ListTrustAnchorsRequest())
        assert [item.name for item in listed.trust_anchors] == [anchor]
        await refusal(client.certificates.AddTrustAnchor(new), PermissionDenied, "ACCESS_DENIED")
        await client.certificates.RemoveTrustAnchor(removal)
    async with installation.client(await installation.issue(manager)) as client:
        await client.certificates.AddTrustAnchor(new)
        await refusal(client.certificates.RemoveTrustAnchor(removal), NotFound, "TRUST_ANCHOR_NOT_FOUND")


async def test_a_foreign_certificate_is_refused_at_the_handshake(installation: Installation) -> None:
    stranger = OutsideCA("Stranger", now=installation.clock())
    assert await handshake(installation, stranger.issue()) == "refused"
