"""RenewCertificate: who may, what the successor has in common with what it follows, and what can come in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from handclasp.accounts.v1 import account_service_pb2
from handclasp.certificate_service.domain.certificates import Certificate
from handclasp.certificate_service.domain.changes import Change, Effect
from handclasp.certificate_service.storage import certificates as storage
from handclasp.certificate_service.storage.database import Transaction
from handclasp.certificate_service.use_cases import renew_certificate
from handclasp.certificates.v1 import certificate_pb2
from handclasp.certificates.v1 import certificate_service_pb2 as pb
from handclasp.client.csr import make_key_and_request
from handclasp.errors import (
    AlreadyExists,
    FailedPrecondition,
    HandclaspError,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unauthenticated,
)
from tests.rpc.account_calls import assign, disable
from tests.rpc.certificate_harness import (
    at_once,
    beside,
    counts,
    der,
    held,
    pem,
    refusal,
    signing_request,
    trusted_ca,
    upload,
    why,
)
from tests.support.installation import Identity, Installation

pytestmark = pytest.mark.asyncio(loop_scope="module")


def request(name: str, **fields: Any) -> pb.RenewCertificateRequest:
    """For a new key, unless the fields name one."""
    if not {"csr_pem", "csr_der"} & fields.keys():
        fields["csr_pem"] = pem(signing_request())
    return pb.RenewCertificateRequest(name=name, **fields)


async def renew(installation: Installation, identity: Identity, **fields: Any) -> certificate_pb2.Certificate:
    """By the certificate itself."""
    async with installation.client(identity) as client:
        return await client.certificates.RenewCertificate(request(identity.name, **fields))


def leaf_of(certificate: certificate_pb2.Certificate) -> x509.Certificate:
    return x509.load_pem_x509_certificates(certificate.pem.encode())[0]


def lifetime_of(certificate: certificate_pb2.Certificate) -> timedelta:
    """Less the five minutes before it was issued."""
    leaf = leaf_of(certificate)
    return leaf.not_valid_after_utc - leaf.not_valid_before_utc - timedelta(minutes=5)


def alternative_names(leaf: x509.Certificate) -> list[x509.GeneralName]:
    return list(leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)


async def test_the_holder_needs_no_permission(installation: Installation) -> None:
    alice = await installation.new_user(grants={"EXECUTE_INTEGRATIONS": "integrations/echo"})
    identity = await installation.issue(alice, description="laptop", labels={"team": "orders"})
    admin = installation.admin.certificates
    before = await admin.GetCertificate(pb.GetCertificateRequest(name=identity.name))
    key = ec.generate_private_key(ec.SECP384R1())

    successor = await renew(installation, identity, csr_der=der(signing_request(key, subject="admin")))

    leaf = leaf_of(successor)
    assert leaf.public_key() == key.public_key()
    assert leaf.subject == identity.leaf.subject
    assert alternative_names(leaf) == alternative_names(identity.leaf)
    assert (successor.user, successor.description, dict(successor.labels)) == (
        f"users/{alice}",
        "laptop",
        {"team": "orders"},
    )
    assert successor.renewed_from == identity.name
    assert (successor.created_by, successor.created_with) == (f"users/{alice}", identity.name)
    assert successor.origin == certificate_pb2.Certificate.ORIGIN_SIGNED
    assert successor.state == certificate_pb2.Certificate.STATE_ACTIVE
    assert successor.name != identity.name
    assert not before.renewed_from
    assert await admin.GetCertificate(pb.GetCertificateRequest(name=successor.name)) == successor
    assert await admin.GetCertificate(pb.GetCertificateRequest(name=identity.name)) == before, "it stays as it is"
    assert await why(installation, identity.der) == "ALLOWED"
    assert await why(installation, leaf.public_bytes(Encoding.DER)) == "ALLOWED"


async def test_a_successor_can_be_renewed_in_turn(installation: Installation) -> None:
    first = await installation.issue(await installation.new_user(), lifetime=timedelta(days=3))
    made = make_key_and_request()
    second = await renew(installation, first, csr_pem=made.csr_pem.decode())
    identity = Identity(second.name, second.pem.encode(), made.key_pem)
    third = await renew(installation, identity)
    assert (second.renewed_from, third.renewed_from) == (first.name, second.name)
    assert lifetime_of(third) == timedelta(days=3), "no second is lost on the way"


async def test_the_old_key_is_accepted(installation: Installation) -> None:
    identity = await installation.issue(await installation.new_user())
    successor = await renew(installation, identity, csr_pem=pem(signing_request(identity.key)))
    assert leaf_of(successor).public_key() == identity.leaf.public_key()
    assert successor.name != identity.name


async def test_lifetimes(installation: Installation) -> None:
    identity = await installation.issue(await installation.new_user(), lifetime=timedelta(days=7))
    assert lifetime_of(await renew(installation, identity)) == timedelta(days=7), "that of the renewed one"
    for wanted in (timedelta(minutes=1), timedelta(days=7)):
        assert lifetime_of(await renew(installation, identity, lifetime=wanted)) == wanted
    # Nobody has to permit a renewal, so it gives no more than was given once.
    for wanted in (timedelta(seconds=59), timedelta(0), timedelta(days=7, seconds=1), timedelta(days=91)):
        await refusal(renew(installation, identity, lifetime=wanted), InvalidArgument, "LIFETIME_NOT_ACCEPTED")


async def test_only_the_one_that_is_presented(installation: Installation) -> None:
    alice = await installation.new_user("administrator")
    identity, other = await installation.issue(alice), await installation.issue(alice)
    missing = "certificates/" + "0" * 26
    async with installation.client(identity) as client, beside(installation) as database:
        before = await counts(database)
        answers = []
        for name in (other.name, missing):
            error = await refusal(
                client.certificates.RenewCertificate(request(name)), PermissionDenied, "NOT_THE_HOLDER"
            )
            answers.append((error.message, error.metadata))
        assert answers[0] == answers[1], "nothing tells one that is there from one that is not"
        assert identity.name in error.message
        assert error.metadata["certificate"] == identity.name
        # Whoever does not know its name.
        successor = await client.certificates.RenewCertificate(request("certificates/-"))
        assert successor.renewed_from == identity.name
        before = await counts(database)
        for name, kind, reason in (
            ("certificates/x", NotFound, "CERTIFICATE_NOT_FOUND"),
            ("users/admin", InvalidArgument, "FIELD_INVALID"),
            ("", InvalidArgument, "FIELD_INVALID"),
        ):
            await refusal(client.certificates.RenewCertificate(request(name)), kind, reason)
        assert await counts(database) == before


async def test_a_password_is_not_enough(installation: Installation) -> None:
    password = "a long enough password"
    alice = await installation.new_user("administrator", password=password)
    identity = await installation.issue(alice)
    async with installation.client(user=alice, password=password) as client:
        await refusal(
            client.certificates.RenewCertificate(request(identity.name)), PermissionDenied, "MUTUAL_TLS_REQUIRED"
        )
    # Beside the certificate it may be sent.
    async with installation.client(identity, user=alice, password=password) as client:
        await client.certificates.RenewCertificate(request(identity.name))


async def test_what_is_not_accepted_as_a_caller_is_not_renewed(installation: Installation) -> None:
    admin = installation.admin
    alice = await installation.new_user()
    revoked, on_hold, short, of_disabled = [
        await installation.issue(user, lifetime=timedelta(days=1))
        for user in (alice, alice, alice, await installation.new_user(name="disabled-later"))
    ]
    await admin.certificates.RevokeCertificate(pb.RevokeCertificateRequest(name=revoked.name))
    await admin.certificates.HoldCertificate(pb.HoldCertificateRequest(name=on_hold.name))
    await admin.accounts.DisableUser(disable("disabled-later"))
    for identity in (revoked, on_hold, of_disabled):
        await refusal(renew(installation, identity), Unauthenticated, "CERTIFICATE_NOT_ACCEPTED")
    with installation.clock.ahead(timedelta(days=2)):
        await refusal(renew(installation, short), Unauthenticated, "CERTIFICATE_NOT_ACCEPTED")


async def test_uploaded_ones_are_renewed_by_their_ca(installation: Installation) -> None:
    ca = await trusted_ca(installation)
    leaf = ca.issue()
    uploaded = await upload(installation, await installation.new_user(), leaf)
    error = await refusal(renew(installation, held(leaf, uploaded.name)), FailedPrecondition, "CERTIFICATE_UPLOADED")
    assert "have its CA renew it and upload the new one" in error.message


async def test_server_names_are_kept(installation: Installation) -> None:
    server = await installation.new_user("relying-party")
    names = ["Orders.Example.org", "192.0.2.7", "2001:db8::7"]
    identity = await installation.issue(server, server_names=names)
    plain = await installation.issue(server)
    leaf = leaf_of(await renew(installation, identity))
    assert alternative_names(leaf) == alternative_names(identity.leaf)
    purposes = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(purposes) == {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH}

    await installation.admin.accounts.UpdateUser(assign(server))
    error = await refusal(renew(installation, identity), InvalidArgument, "FIELD_INVALID")
    assert [violation.field for violation in error.violations] == ["server_names"]
    await renew(installation, plain)


async def test_the_services_own_names_are_kept_too(installation: Installation) -> None:
    """Only somebody with every administrative permission could give them; the holder need not have any but one."""
    server = await installation.new_user("relying-party")
    identity = await installation.issue(server, server_names=["localhost"])
    assert x509.DNSName("localhost") in alternative_names(leaf_of(await renew(installation, identity)))


BAD_REQUESTS: Mapping[str, tuple[dict[str, Any], str]] = {
    "no key": ({"csr_pem": ""}, "CSR_INVALID"),
    "garbage": ({"csr_der": b"\x30"}, "CSR_INVALID"),
    "P-521": ({"csr_der": der(signing_request(ec.generate_private_key(ec.SECP521R1())))}, "KEY_NOT_ACCEPTED"),
    "a request id with a space": ({"request_id": "a b"}, "FIELD_INVALID"),
}


@pytest.mark.parametrize("what", BAD_REQUESTS)
async def test_bad_requests_change_nothing(installation: Installation, what: str) -> None:
    fields, reason = BAD_REQUESTS[what]
    identity = await installation.issue(await installation.new_user())
    async with beside(installation) as database:
        before = await counts(database)
        await refusal(renew(installation, identity, **fields), InvalidArgument, reason)
        assert await counts(database) == before
    async with installation.client(identity) as client:
        error = await refusal(
            client.certificates.RenewCertificate(pb.RenewCertificateRequest(name=identity.name)),
            InvalidArgument,
            "FIELD_INVALID",
        )
    assert [violation.field for violation in error.violations] == ["key_source"]


async def test_a_retry_returns_the_same_certificate(installation: Installation) -> None:
    alice = await installation.new_user()
    identity, other = await installation.issue(alice), await installation.issue(alice)
    wanted = request(identity.name, request_id="r-1")
    async with installation.client(identity) as client, beside(installation) as database:
        first = await client.certificates.RenewCertificate(wanted)
        before = await counts(database)
        assert await client.certificates.RenewCertificate(wanted) == first
        await refusal(
            client.certificates.RenewCertificate(request(identity.name, request_id="r-1")),
            AlreadyExists,
            "REQUEST_ID_REUSED",
        )
        assert await counts(database) == before
        answers = await at_once(
            *(
                client.certificates.RenewCertificate(request(identity.name, csr_pem=wanted.csr_pem, request_id="r-2"))
                for _ in range(8)
            )
        )
        assert len({answer.name for answer in answers}) == 1
    # The same id for another certificate of the same user's is another request.
    await refusal(
        renew(installation, other, csr_pem=wanted.csr_pem, request_id="r-1"), AlreadyExists, "REQUEST_ID_REUSED"
    )


async def test_it_is_logged_and_is_a_change(installation: Installation) -> None:
    identity = await installation.issue(await installation.new_user())
    async with beside(installation) as database:
        before = (await database.history_head()).revision
        successor = await renew(installation, identity)
        revisions = await database.history(after=before, limit=10)
    assert [revision.changes for revision in revisions] == [(Change(successor.name, Effect.GIVEN),)]
    (line,) = [line for line in installation.log.read_text().splitlines() if successor.name in line]
    assert "certificate_issued" in line
    assert identity.name in line


@asynccontextmanager
async def held_up(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[asyncio.Event, asyncio.Event]]:
    """Renewals are admitted and then wait: they say so by the first event, and go on with the second."""
    admitted, go_on = asyncio.Event(), asyncio.Event()
    find, first = storage.find_certificate, True

    async def waiting(snapshot: Any, certificate_id: str) -> Certificate | None:
        nonlocal first
        found = await find(snapshot, certificate_id)
        if first:
            first = False
            assert not isinstance(snapshot, Transaction)
            admitted.set()
            await go_on.wait()
        return found

    with monkeypatch.context() as patch:
        patch.setattr(renew_certificate, "find_certificate", waiting)
        yield admitted, go_on


async def _revoke(installation: Installation, name: str, user: str) -> None:
    await installation.admin.certificates.RevokeCertificate(pb.RevokeCertificateRequest(name=name))


async def _revoke_all(installation: Installation, name: str, user: str) -> None:
    await installation.admin.certificates.RevokeUserCertificates(pb.RevokeUserCertificatesRequest(user=f"users/{user}"))


async def _hold(installation: Installation, name: str, user: str) -> None:
    await installation.admin.certificates.HoldCertificate(pb.HoldCertificateRequest(name=name))


async def _disable(installation: Installation, name: str, user: str) -> None:
    await installation.admin.accounts.DisableUser(account_service_pb2.DisableUserRequest(name=f"users/{user}"))


Taking = Callable[[Installation, str, str], Awaitable[None]]


@pytest.mark.parametrize(
    ("take", "reason"),
    [
        (_revoke, "CERTIFICATE_REVOKED"),
        (_revoke_all, "CERTIFICATE_REVOKED"),
        (_hold, "CERTIFICATE_ON_HOLD"),
        (_disable, "USER_IS_DISABLED"),
    ],
)
async def test_what_is_taken_away_after_admission_is_not_renewed(
    installation: Installation, monkeypatch: pytest.MonkeyPatch, take: Taking, reason: str
) -> None:
    """Else a thief's renewal that is under way would outlive the revocation that returned before it."""
    alice = await installation.new_user()
    identity = await installation.issue(alice)
    async with beside(installation) as database, held_up(monkeypatch) as (admitted, go_on):
        renewing = asyncio.create_task(renew(installation, identity))
        await asyncio.wait_for(admitted.wait(), 20)
        before = await counts(database)
        await take(installation, identity.name, alice)
        go_on.set()
        await refusal(renewing, FailedPrecondition, reason)
        assert await counts(database) == before


async def test_one_that_expires_after_admission_is_not_renewed(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = await installation.issue(await installation.new_user(), lifetime=timedelta(hours=1))
    async with held_up(monkeypatch) as (admitted, go_on):
        renewing = asyncio.create_task(renew(installation, identity))
        await asyncio.wait_for(admitted.wait(), 20)
        with installation.clock.ahead(timedelta(hours=1)):
            go_on.set()
            await refusal(renewing, FailedPrecondition, "CERTIFICATE_NO_LONGER_VALID")


async def test_renewing_and_revoking_at_once(installation: Installation) -> None:
    """A successor that was put on file was so before the revocation, which its administrator can see."""
    admin = installation.admin.certificates
    for _ in range(5):
        alice = await installation.new_user()
        identity = await installation.issue(alice)
        renewed, revoked = await at_once(
            renew(installation, identity),
            admin.RevokeCertificate(pb.RevokeCertificateRequest(name=identity.name)),
        )
        listed = await admin.ListCertificates(pb.ListCertificatesRequest(user=f"users/{alice}"))
        successors = [item for item in listed.certificates if item.renewed_from == identity.name]
        if isinstance(renewed, HandclaspError):
            assert renewed.reason in {"CERTIFICATE_REVOKED", "CERTIFICATE_NOT_ACCEPTED"}
            assert not successors
        else:
            assert [item.name for item in successors] == [renewed.name]
        assert revoked.state == certificate_pb2.Certificate.STATE_REVOKED
