"""UploadCertificate: what is put on file, what is refused and why, and that nothing leaks to who cannot prove."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from handclasp.accounts.v1 import account_service_pb2
from handclasp.certificates.v1 import certificate_pb2
from handclasp.certificates.v1 import certificate_service_pb2 as pb
from handclasp.errors import (
    AlreadyExists,
    FailedPrecondition,
    HandclaspError,
    InvalidArgument,
    NotFound,
    PermissionDenied,
)
from tests.rpc.certificate_harness import (
    TRUST_DOMAIN,
    at_once,
    beside,
    counts,
    decide,
    held,
    possession,
    refusal,
    trusted_ca,
    upload,
    upload_request,
    why,
)
from tests.support.installation import Installation
from tests.support.outside_ca import (
    ANY_PURPOSE,
    SERVER_AUTH,
    UNKNOWN_EXTENSION,
    Issued,
    OutsideCA,
    glued_pem,
    huge_rsa_certificate,
    key_usage,
    self_signed,
    sha1_signed,
    signature_twin,
    uri,
    version_1,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_an_uploaded_certificate_is_on_file_and_acts_as_its_user(installation: Installation) -> None:
    ca = await trusted_ca(installation)
    bob = await installation.new_user("regular-user")
    below = ca.intermediate()
    leaf = below.issue("anything at all")

    certificate = await upload(installation, bob, leaf, description="a partner's", labels={"partner": "acme"})

    assert certificate.user == f"users/{bob}"
    assert certificate.origin == certificate_pb2.Certificate.ORIGIN_UPLOADED
    assert certificate.state == certificate_pb2.Certificate.STATE_ACTIVE
    assert certificate.subject == "CN=anything at all"
    assert certificate.issuer == "CN=Outside intermediate CA"
    assert certificate.pem == leaf.pem
    assert certificate.created_by == "users/admin"
    assert certificate.created_with.startswith("certificates/")
    assert (certificate.description, dict(certificate.labels)) == ("a partner's", {"partner": "acme"})
    decision = await decide(installation, leaf.der)
    assert decision.allowed
    assert decision.user == f"users/{bob}"
    assert decision.certificate == certificate.name
    async with installation.client(held(leaf)) as client:
        found = await client.certificates.GetCertificate(pb.GetCertificateRequest(name=certificate.name))
    assert found == certificate


async def test_the_forms_that_are_taken(installation: Installation) -> None:
    ca = await trusted_ca(installation)
    bob = await installation.new_user()
    below = ca.intermediate()
    alone = ca.issue()
    as_der = await installation.admin.certificates.UploadCertificate(
        pb.UploadCertificateRequest(user=f"users/{bob}", der=alone.der)
    )
    assert as_der.pem == alone.pem
    with_root = below.issue()
    sent = with_root.pem + ca.pem
    assert (await upload(installation, bob, with_root, pem=sent)).pem == with_root.pem, "the root is not kept"
    glued = below.issue()
    stored = await upload(installation, bob, glued, pem=glued_pem(glued.certificate, *glued.intermediates))
    assert stored.pem == glued.pem, "what is glued together comes back as it should be"


def _signed_by_a_namesake(ca: OutsideCA) -> Issued:
    return OutsideCA("Partner CA", now=ca.now).issue()


def _critical(ca: OutsideCA) -> Issued:
    return ca.issue(extensions=[(UNKNOWN_EXTENSION, True)])


REFUSED: dict[str, tuple[Callable[[OutsideCA], Issued], str]] = {
    "of a stranger": (lambda _: OutsideCA("Stranger").issue(), "CHAIN_NOT_TRUSTED"),
    "of a CA with the same name": (_signed_by_a_namesake, "CHAIN_NOT_TRUSTED"),
    "over a CA that may have none below": (
        lambda ca: ca.intermediate(path_length=0).intermediate("lower").issue(),
        "CHAIN_NOT_TRUSTED",
    ),
    "over a CA that expired": (
        lambda ca: ca.intermediate(not_after=ca.now - timedelta(hours=1)).issue(),
        "CHAIN_NOT_TRUSTED",
    ),
    "over a leaf": (
        lambda ca: ca.intermediate("no CA at all", basic_constraints=False, usage=None).issue(),
        "CHAIN_NOT_TRUSTED",
    ),
    "self-signed": (lambda ca: self_signed(now=ca.now), "CERTIFICATE_SELF_SIGNED"),
    "self-signed and a CA's": (lambda ca: self_signed(now=ca.now, ca=True), "CERTIFICATE_SELF_SIGNED"),
    "a CA's": (lambda ca: ca.issue(ca=True), "CERTIFICATE_IS_CA"),
    "one that may sign": (lambda ca: ca.issue(usage=key_usage("key_cert_sign")), "CERTIFICATE_IS_CA"),
    "expired": (lambda ca: ca.issue(not_after=ca.now - timedelta(hours=1)), "CERTIFICATE_EXPIRED"),
    "not yet valid": (lambda ca: ca.issue(not_before=ca.now + timedelta(hours=1)), "CERTIFICATE_NOT_YET_VALID"),
    "with a P-521 key": (lambda ca: ca.issue(key=ec.generate_private_key(ec.SECP521R1())), "KEY_NOT_ACCEPTED"),
    "with an Ed25519 key": (lambda ca: ca.issue(key=ed25519.Ed25519PrivateKey.generate()), "KEY_NOT_ACCEPTED"),
    "for servers only": (lambda ca: ca.issue(purposes=(SERVER_AUTH,)), "CLIENT_AUTH_NOT_ALLOWED"),
    # TLS stacks do not take anyExtendedKeyUsage for clientAuth.
    "for any purpose": (lambda ca: ca.issue(purposes=(ANY_PURPOSE,)), "CLIENT_AUTH_NOT_ALLOWED"),
    "without purpose": (lambda ca: ca.issue(purposes=None), ""),
    "not for signing": (lambda ca: ca.issue(usage=key_usage("key_encipherment")), "CLIENT_AUTH_NOT_ALLOWED"),
    "that claims this trust domain": (
        lambda ca: ca.issue(alternative=[uri(f"spiffe://{TRUST_DOMAIN}/user/admin")]),
        "TRUST_DOMAIN_CLAIMED",
    ),
    "that claims it in capitals": (
        lambda ca: ca.issue(alternative=[uri(f"SPIFFE://{TRUST_DOMAIN.upper()}/user/admin")]),
        "TRUST_DOMAIN_CLAIMED",
    ),
    "that claims another one": (lambda ca: ca.issue(alternative=[uri("spiffe://partner.example/x")]), ""),
    "of version 1": (version_1, "CERTIFICATE_INVALID"),
    "signed with SHA-1": (sha1_signed, "CERTIFICATE_INVALID"),
    "with a critical extension nobody knows": (_critical, "CERTIFICATE_INVALID"),
}


@pytest.mark.parametrize("what", REFUSED)
async def test_each_refusal_names_its_reason_and_changes_nothing(installation: Installation, what: str) -> None:
    make, reason = REFUSED[what]
    ca = await trusted_ca(installation)
    bob = await installation.new_user()
    leaf = make(ca)
    async with beside(installation) as database:
        before = await counts(database)
        if reason:
            await refusal(upload(installation, bob, leaf), InvalidArgument, reason)
            assert await counts(database) == before
        else:
            await upload(installation, bob, leaf)
            assert (await counts(database))["certificates"] == before["certificates"] + 1


async def test_material_that_is_no_certificate_is_refused(installation: Installation) -> None:
    ca = await trusted_ca(installation)
    bob = await installation.new_user()
    leaf = ca.issue()
    name = f"users/{bob}"
    requests = {
        "nothing": pb.UploadCertificateRequest(user=name, pem=""),
        "garbage": pb.UploadCertificateRequest(user=name, der=b"\x30\x03abc"),
        "cut short": pb.UploadCertificateRequest(user=name, der=leaf.der[:-1]),
        "more after it": pb.UploadCertificateRequest(user=name, der=leaf.der + b"\0"),
        "its key with it": pb.UploadCertificateRequest(user=name, pem=leaf.pem + leaf.key_pem),
        "eleven": pb.UploadCertificateRequest(user=name, pem=leaf.pem + ca.pem * 10),
        "oversized": pb.UploadCertificateRequest(user=name, pem=leaf.pem + " " * 65_536),
    }
    for what, request in requests.items():
        error = await refusal(
            installation.admin.certificates.UploadCertificate(request), InvalidArgument, "CERTIFICATE_INVALID"
        )
        assert "PRIVATE KEY-----" not in error.message, what
    huge = pb.UploadCertificateRequest(user=name, der=huge_rsa_certificate(16384, like=leaf.certificate))
    await refusal(installation.admin.certificates.UploadCertificate(huge), InvalidArgument, "KEY_NOT_ACCEPTED")
    neither = pb.UploadCertificateRequest(user=name)
    await refusal(installation.admin.certificates.UploadCertificate(neither), InvalidArgument, "FIELD_INVALID")


async def test_own_certificates_of_the_service_are_not_for_uploading(installation: Installation) -> None:
    alice = await installation.new_user()
    identity = await installation.issue(alice)
    request = pb.UploadCertificateRequest(user=f"users/{alice}", pem=identity.certificate_pem.decode())
    await refusal(installation.admin.certificates.UploadCertificate(request), InvalidArgument, "TRUST_DOMAIN_CLAIMED")


async def test_a_certificate_is_on_file_once_in_any_form(installation: Installation) -> None:
    ca = await trusted_ca(installation)
    bob, carol = await installation.new_user(), await installation.new_user()
    leaf = ca.issue()
    certificate = await upload(installation, bob, leaf)
    twin = Issued(x509.load_der_x509_certificate(signature_twin(leaf.certificate)), leaf.key)
    assert twin.der != leaf.der
    for again in (leaf, twin):
        for user in (bob, carol):
            error = await refusal(upload(installation, user, again), AlreadyExists, "CERTIFICATE_EXISTS")
            assert certificate.name in error.message
    # Not after it was revoked, either: else its holder would be back.
    await installation.admin.certificates.RevokeCertificate(pb.RevokeCertificateRequest(name=certificate.name))
    for again in (leaf, twin):
        await refusal(upload(installation, bob, again), AlreadyExists, "CERTIFICATE_EXISTS")
    assert await why(installation, twin.der) == "UNKNOWN_CERTIFICATE"


async def test_of_concurrent_uploads_one_is_put_on_file(installation: Installation) -> None:
    ca = await trusted_ca(installation)
    bob = await installation.new_user()
    leaf = ca.issue()
    twin = Issued(x509.load_der_x509_certificate(signature_twin(leaf.certificate)), leaf.key)
    results = await at_once(*(upload(installation, bob, one) for one in (leaf, twin) * 4))
    taken = [result for result in results if isinstance(result, certificate_pb2.Certificate)]
    refused = [result.reason for result in results if isinstance(result, HandclaspError)]
    assert len(taken) == 1
    assert refused == ["CERTIFICATE_EXISTS"] * 7


async def test_whoever_uploads_for_themselves_proves_that_they_hold_the_key(installation: Installation) -> None:
    ca = await trusted_ca(installation)
    bob = await installation.new_user("regular-user")
    leaf = ca.issue()
    async with installation.client(await installation.issue(bob)) as client:
        await refusal(upload(installation, bob, leaf, client), InvalidArgument, "POSSESSION_PROOF_REQUIRED")
        certificate = await upload(installation, bob, leaf, client, possession_proof=possession(bob, leaf))
    assert certificate.created_by == f"users/{bob}"


async def test_administrators_prove_it_for_themselves_too(installation: Installation) -> None:
    ca = await trusted_ca(installation)
    await refusal(upload(installation, "admin", ca.issue()), InvalidArgument, "POSSESSION_PROOF_REQUIRED")


async def test_proofs_that_do_not_hold(installation: Installation) -> None:
    ca = await trusted_ca(installation)
    bob = await installation.new_user("regular-user")
    leaf, other = ca.issue(), ca.issue()
    now = datetime.now(UTC)
    proofs = {
        "signed by another key": possession(bob, leaf, key=other.key),
        "for another user": possession(bob, leaf, said_user="alice"),
        "for another trust domain": possession(bob, leaf, trust_domain="example.org"),
        "for another certificate": possession(bob, leaf, certificate=other.der),
        "too old": possession(bob, leaf, at=now - timedelta(minutes=11)),
        "of the future": possession(bob, leaf, at=now + timedelta(minutes=4)),
        "empty": pb.PossessionProof(),
        "without its last line feed": pb.PossessionProof(
            statement=possession(bob, leaf).statement[:-1], signature=possession(bob, leaf).signature
        ),
    }
    async with installation.client(await installation.issue(bob)) as client, beside(installation) as database:
        before = await counts(database)
        for what, proof in proofs.items():
            error = await refusal(
                upload(installation, bob, leaf, client, possession_proof=proof),
                InvalidArgument,
                "POSSESSION_PROOF_INVALID",
            )
            assert error.message, what
        assert await counts(database) == before
        # Ten minutes old and two in the future are still good, give or take the time that this test takes.
        for moment in (now - timedelta(minutes=9), now + timedelta(minutes=1)):
            good = ca.issue()
            await upload(installation, bob, good, client, possession_proof=possession(bob, good, at=moment))


async def test_without_proof_nothing_is_said_of_what_is_on_file(installation: Installation) -> None:
    ca = await trusted_ca(installation)
    carol, eve = await installation.new_user(), await installation.new_user("regular-user")
    on_file, not_on_file = ca.issue(), ca.issue()
    certificate = await upload(installation, carol, on_file)
    thief = ca.issue()
    async with installation.client(await installation.issue(eve)) as client:
        for proof, reason in (
            (None, "POSSESSION_PROOF_REQUIRED"),
            (possession(eve, on_file, key=thief.key), "POSSESSION_PROOF_INVALID"),
        ):
            told = [
                await refusal(upload(installation, eve, leaf, client, possession_proof=proof), InvalidArgument, reason)
                for leaf in (on_file, not_on_file)
            ]
            if proof is None:
                assert told[0].message == told[1].message
        # With proof it is said that it is on file, but not whose it is.
        error = await refusal(
            upload(installation, eve, on_file, client, possession_proof=possession(eve, on_file)),
            AlreadyExists,
            "CERTIFICATE_EXISTS",
        )
    assert certificate.name not in error.message
    assert carol not in error.message


async def test_for_whom_and_by_whom(installation: Installation) -> None:
    ca = await trusted_ca(installation)
    regular, bob = await installation.new_user("regular-user"), await installation.new_user()
    manager = await installation.new_user(grants={"USER_MANAGEMENT": "users/*"})
    await refusal(upload(installation, "nobody-here", ca.issue()), NotFound, "USER_NOT_FOUND")
    async with installation.client(await installation.issue(regular)) as client:
        await refusal(upload(installation, bob, ca.issue(), client), PermissionDenied, "ACCESS_DENIED")
    async with installation.client(await installation.issue(bob)) as client:
        leaf = ca.issue()
        proof = possession(bob, leaf)
        await refusal(
            upload(installation, bob, leaf, client, possession_proof=proof), PermissionDenied, "ACCESS_DENIED"
        )
    async with installation.client(await installation.issue(manager)) as client:
        await upload(installation, bob, ca.issue(), client)
        await refusal(upload(installation, "admin", ca.issue(), client), PermissionDenied, "ADMINISTRATOR_PROTECTED")
    await installation.admin.accounts.DisableUser(account_service_pb2.DisableUserRequest(name=f"users/{bob}"))
    await refusal(upload(installation, bob, ca.issue()), FailedPrecondition, "USER_IS_DISABLED")


async def test_an_upload_while_its_anchor_is_removed_is_on_file_or_refused(installation: Installation) -> None:
    ca = OutsideCA("Fleeting CA", now=installation.clock())
    bob = await installation.new_user("regular-user")
    anchor = await installation.admin.certificates.AddTrustAnchor(pb.AddTrustAnchorRequest(der=ca.der))
    leaves = [ca.issue() for _ in range(6)]

    async def remove() -> None:
        await installation.admin.certificates.RemoveTrustAnchor(pb.RemoveTrustAnchorRequest(name=anchor.name))

    uploads = [asyncio.create_task(upload(installation, bob, leaf)) for leaf in leaves]
    await remove()
    for leaf, result in zip(leaves, await at_once(*uploads), strict=True):
        if isinstance(result, HandclaspError):
            assert result.reason == "CHAIN_NOT_TRUSTED"
        assert await why(installation, leaf.der) in {"ANCHOR_REMOVED", "UNKNOWN_CERTIFICATE"}


async def test_a_retried_upload_returns_the_same_certificate(installation: Installation) -> None:
    ca = await trusted_ca(installation)
    bob = await installation.new_user("regular-user")
    leaf = ca.issue()
    async with installation.client(await installation.issue(bob)) as client:
        first = await upload(installation, bob, leaf, client, request_id="u1", possession_proof=possession(bob, leaf))
        # A new proof is another proof, and the same request.
        later = possession(bob, leaf, at=datetime.now(UTC) + timedelta(seconds=30))
        again = await upload(installation, bob, leaf, client, request_id="u1", possession_proof=later)
        assert again == first
        other = ca.issue()
        await refusal(
            upload(installation, bob, other, client, request_id="u1", possession_proof=possession(bob, other)),
            AlreadyExists,
            "REQUEST_ID_REUSED",
        )
    # The same id of another caller is another request.
    await refusal(
        installation.admin.certificates.UploadCertificate(upload_request(bob, leaf, request_id="u1")),
        AlreadyExists,
        "CERTIFICATE_EXISTS",
    )
