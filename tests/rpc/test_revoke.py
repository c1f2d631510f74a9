"""RevokeCertificate and RevokeUserCertificates."""

from __future__ import annotations

import pytest

from handclasp.certificates.v1 import certificate_pb2
from handclasp.certificates.v1 import certificate_service_pb2 as pb
from handclasp.errors import InvalidArgument, NotFound, PermissionDenied, Unauthenticated
from tests.rpc.certificate_harness import at_once, refusal, trusted_ca, upload, why
from tests.support.installation import Installation

pytestmark = pytest.mark.asyncio(loop_scope="module")

REASONS = [
    number
    for number in certificate_pb2.RevocationReason.values()
    if number != certificate_pb2.REVOCATION_REASON_UNSPECIFIED
]


async def test_a_revoked_certificate_is_refused_from_the_next_call_on(installation: Installation) -> None:
    alice = await installation.new_user("regular-user")
    identity, other = await installation.issue(alice), await installation.issue(alice)
    own = pb.GetCertificateRequest(name=identity.name)
    async with installation.client(identity) as client:
        await client.certificates.GetCertificate(own)
        assert await why(installation, identity.der) == "ALLOWED"
        await installation.admin.certificates.RevokeCertificate(pb.RevokeCertificateRequest(name=identity.name))
        assert await why(installation, identity.der) == "REVOKED"
        # On the connection that was open all the time.
        await refusal(client.certificates.GetCertificate(own), Unauthenticated, "CERTIFICATE_NOT_ACCEPTED")
    assert await why(installation, other.der) == "ALLOWED", "only that one"


@pytest.mark.parametrize("reason", REASONS, ids=certificate_pb2.RevocationReason.Name)
async def test_the_reason_is_kept_with_when_and_by_whom(
    installation: Installation, reason: certificate_pb2.RevocationReason.ValueType
) -> None:
    alice = await installation.new_user()
    identity = await installation.issue(alice)
    answer = await installation.admin.certificates.RevokeCertificate(
        pb.RevokeCertificateRequest(name=identity.name, reason=reason)
    )
    stored = await installation.admin.certificates.GetCertificate(pb.GetCertificateRequest(name=identity.name))
    assert stored == answer
    assert stored.state == certificate_pb2.Certificate.STATE_REVOKED
    assert stored.revocation.reason == reason
    assert stored.revocation.revoked_by == "users/admin"
    assert stored.revocation.revoke_time.ToNanoseconds() >= stored.create_time.ToNanoseconds()


async def test_no_reason_means_none_given(installation: Installation) -> None:
    identity = await installation.issue(await installation.new_user())
    answer = await installation.admin.certificates.RevokeCertificate(pb.RevokeCertificateRequest(name=identity.name))
    assert answer.revocation.reason == certificate_pb2.REVOCATION_REASON_NONE_GIVEN


async def test_revoking_twice_changes_nothing(installation: Installation) -> None:
    identity = await installation.issue(await installation.new_user())
    admin = installation.admin.certificates
    first = await admin.RevokeCertificate(
        pb.RevokeCertificateRequest(name=identity.name, reason=certificate_pb2.REVOCATION_REASON_SUPERSEDED)
    )
    again = await admin.RevokeCertificate(
        pb.RevokeCertificateRequest(name=identity.name, reason=certificate_pb2.REVOCATION_REASON_KEY_COMPROMISE)
    )
    assert again == first
    assert await admin.GetCertificate(pb.GetCertificateRequest(name=identity.name)) == first


async def test_concurrent_revocations_agree(installation: Installation) -> None:
    identity = await installation.issue(await installation.new_user())
    answers = await at_once(
        *(
            installation.admin.certificates.RevokeCertificate(
                pb.RevokeCertificateRequest(name=identity.name, reason=reason)
            )
            for reason in REASONS
        )
    )
    assert all(answer == answers[0] for answer in answers)


async def test_all_of_a_user(installation: Installation) -> None:
    ca = await trusted_ca(installation)
    alice, bob = await installation.new_user("regular-user"), await installation.new_user("regular-user")
    admin = installation.admin.certificates
    before = await installation.issue(alice)
    await admin.RevokeCertificate(
        pb.RevokeCertificateRequest(name=before.name, reason=certificate_pb2.REVOCATION_REASON_SUPERSEDED)
    )
    issued, leaf, of_bob = await installation.issue(alice), ca.issue(), await installation.issue(bob)
    await upload(installation, alice, leaf)

    request = pb.RevokeUserCertificatesRequest(
        user=f"users/{alice}", reason=certificate_pb2.REVOCATION_REASON_AFFILIATION_CHANGED
    )
    assert (await admin.RevokeUserCertificates(request)).revoked_count == 2
    assert await why(installation, issued.der) == "REVOKED"
    assert await why(installation, leaf.der) == "REVOKED"
    assert await why(installation, of_bob.der) == "ALLOWED"
    kept = await admin.GetCertificate(pb.GetCertificateRequest(name=before.name))
    assert kept.revocation.reason == certificate_pb2.REVOCATION_REASON_SUPERSEDED
    assert (await admin.RevokeUserCertificates(request)).revoked_count == 0
    # Nobody is locked out for good by it.
    assert await why(installation, (await installation.issue(alice)).der) == "ALLOWED"


async def test_who_may_revoke(installation: Installation) -> None:
    regular, powerless = await installation.new_user("regular-user"), await installation.new_user()
    manager = await installation.new_user(grants={"USER_MANAGEMENT": f"users/{powerless}"})
    own, others = await installation.issue(regular), await installation.issue(powerless)
    async with installation.client(await installation.issue(regular)) as client:
        await client.certificates.RevokeCertificate(pb.RevokeCertificateRequest(name=own.name))
        await refusal(
            client.certificates.RevokeCertificate(pb.RevokeCertificateRequest(name=others.name)),
            NotFound,
            "CERTIFICATE_NOT_FOUND",
        )
        for user in (powerless, "nobody-here"):
            await refusal(
                client.certificates.RevokeUserCertificates(pb.RevokeUserCertificatesRequest(user=f"users/{user}")),
                PermissionDenied,
                "ACCESS_DENIED",
            )
    async with installation.client(await installation.issue(manager)) as client:
        revoked = await client.certificates.RevokeCertificate(pb.RevokeCertificateRequest(name=others.name))
        assert revoked.revocation.revoked_by == f"users/{manager}"
    async with installation.client(await installation.issue(powerless)) as client:
        await refusal(
            client.certificates.RevokeUserCertificates(pb.RevokeUserCertificatesRequest(user=f"users/{powerless}")),
            PermissionDenied,
            "ACCESS_DENIED",
        )


async def test_a_certificate_can_revoke_itself(installation: Installation) -> None:
    identity = await installation.issue(await installation.new_user("regular-user"))
    request = pb.RevokeCertificateRequest(name=identity.name, reason=certificate_pb2.REVOCATION_REASON_KEY_COMPROMISE)
    async with installation.client(identity) as client:
        await client.certificates.RevokeCertificate(request)
        await refusal(client.certificates.RevokeCertificate(request), Unauthenticated, "CERTIFICATE_NOT_ACCEPTED")


async def test_what_cannot_be_revoked(installation: Installation) -> None:
    admin = installation.admin.certificates
    identity = await installation.issue(await installation.new_user())
    missing = "certificates/" + "0" * 26
    for name in (missing, "certificates/x", "certificates/../users/admin"):
        await refusal(
            admin.RevokeCertificate(pb.RevokeCertificateRequest(name=name)), NotFound, "CERTIFICATE_NOT_FOUND"
        )
    for name in ("", "x", "users/admin", "certificates/", "certificates/" + "0" * 300):
        await refusal(admin.RevokeCertificate(pb.RevokeCertificateRequest(name=name)), InvalidArgument, "FIELD_INVALID")
    unknown = pb.RevokeCertificateRequest(name=identity.name)
    unknown.MergeFromString(b"\x10\x63")  # reason: 99
    await refusal(admin.RevokeCertificate(unknown), InvalidArgument, "FIELD_INVALID")
    await refusal(
        admin.RevokeUserCertificates(pb.RevokeUserCertificatesRequest(user="users/nobody-here")),
        NotFound,
        "USER_NOT_FOUND",
    )
    assert not (await admin.GetCertificate(pb.GetCertificateRequest(name=identity.name))).HasField("revocation")
