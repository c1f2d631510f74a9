"""ListCertificates, GetCertificate and UpdateCertificate: what is found, by whom, and page by page."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from datetime import timedelta
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from handclasp.certificates.v1 import certificate_pb2
from handclasp.certificates.v1 import certificate_service_pb2 as pb
from handclasp.client.client import HandclaspClient
from handclasp.errors import InvalidArgument, NotFound, Unauthenticated
from tests.rpc.certificate_harness import refusal, trusted_ca, upload
from tests.support.installation import Identity, Installation

pytestmark = pytest.mark.asyncio(loop_scope="module")

State = certificate_pb2.Certificate.State


async def page(client: HandclaspClient, **fields: Any) -> pb.ListCertificatesResponse:
    return await client.certificates.ListCertificates(pb.ListCertificatesRequest(**fields))


async def listed(client: HandclaspClient, **fields: Any) -> list[str]:
    """The names on all pages."""
    names: list[str] = []
    token = ""
    while True:
        answer = await page(client, page_token=token, **fields)
        names += [certificate.name for certificate in answer.certificates]
        token = answer.next_page_token
        if not token:
            return names


def names(identities: Sequence[Identity]) -> list[str]:
    return [identity.name for identity in identities]


async def test_all_filters(installation: Installation) -> None:
    alice, bob = await installation.new_user(), await installation.new_user()
    admin = installation.admin
    short = await installation.issue(alice, lifetime=timedelta(minutes=10))
    medium = await installation.issue(alice, lifetime=timedelta(days=10))
    long = await installation.issue(alice, lifetime=timedelta(days=80))
    of_bob = await installation.issue(bob)
    user = f"users/{alice}"

    assert await listed(admin, user=user) == names([short, medium, long]), "oldest first"
    assert await listed(admin, user="users/nobody-at-all") == []

    end = Timestamp(seconds=int(medium.leaf.not_valid_after_utc.timestamp()))
    assert await listed(admin, user=user, expire_before=end) == names([short])
    assert await listed(admin, user=user, expire_after=end) == names([medium, long])
    just_after = Timestamp(seconds=end.seconds, nanos=1000)
    assert await listed(admin, user=user, expire_before=just_after) == names([short, medium])
    assert await listed(admin, user=user, expire_after=end, expire_before=just_after) == names([medium])

    serial = f"{of_bob.leaf.serial_number:x}"
    colons = ":".join(f"{of_bob.leaf.serial_number:040X}"[index : index + 2] for index in range(0, 40, 2))
    for text in (serial, serial.upper(), "000" + serial, colons):
        assert await listed(admin, serial=text) == names([of_bob]), text
    assert await listed(admin, serial=serial[:-1]) == []
    assert await listed(admin, serial=serial, user=user) == [], "all filters must match"
    found = (await page(admin, serial=serial)).certificates[0]
    for text in (found.fingerprint, found.fingerprint.upper()):
        assert await listed(admin, fingerprint=text) == names([of_bob])
    assert await listed(admin, fingerprint="0" * 64) == []


async def test_states_follow_the_clock_and_revocation(installation: Installation) -> None:
    ca = await trusted_ca(installation)
    alice = await installation.new_user()
    admin, user = installation.admin, f"users/{alice}"
    short = await installation.issue(alice, lifetime=timedelta(minutes=10))
    long = await installation.issue(alice)
    revoked = await installation.issue(alice, lifetime=timedelta(minutes=10))
    await admin.certificates.RevokeCertificate(pb.RevokeCertificateRequest(name=revoked.name))
    held, held_and_revoked = [await installation.issue(alice, lifetime=timedelta(minutes=10)) for _ in range(2)]
    for identity in (held, held_and_revoked):
        await admin.certificates.HoldCertificate(pb.HoldCertificateRequest(name=identity.name))
    await admin.certificates.RevokeCertificate(pb.RevokeCertificateRequest(name=held_and_revoked.name))
    with installation.clock.ahead(timedelta(days=1)):
        future = await upload(
            installation, alice, ca.issue(not_before=ca.now + timedelta(hours=20), not_after=ca.now + timedelta(days=9))
        )

    async def by_state() -> dict[str, list[str]]:
        return {
            name: await listed(admin, user=user, states=[number])
            for name, number in State.items()
            if number != certificate_pb2.Certificate.STATE_UNSPECIFIED
        }

    assert await by_state() == {
        "STATE_ACTIVE": names([short, long]),
        "STATE_REVOKED": names([revoked, held_and_revoked]),
        "STATE_EXPIRED": [],
        "STATE_NOT_YET_VALID": [future.name],
        "STATE_ON_HOLD": names([held]),
    }
    with installation.clock.ahead(timedelta(days=1)):
        assert await by_state() == {
            "STATE_ACTIVE": [long.name, future.name],
            "STATE_REVOKED": names([revoked, held_and_revoked]),
            "STATE_EXPIRED": names([short]),
            "STATE_NOT_YET_VALID": [],
            "STATE_ON_HOLD": names([held]),
        }
        both = [certificate_pb2.Certificate.STATE_EXPIRED, certificate_pb2.Certificate.STATE_REVOKED]
        assert await listed(admin, user=user, states=both) == names([short, revoked, held_and_revoked])
        states = {item.name: item.state for item in (await page(admin, user=user)).certificates}
        assert states[short.name] == certificate_pb2.Certificate.STATE_EXPIRED
    assert states[revoked.name] == certificate_pb2.Certificate.STATE_REVOKED
    assert states[held.name] == certificate_pb2.Certificate.STATE_ON_HOLD
    assert states[future.name] == certificate_pb2.Certificate.STATE_ACTIVE


async def test_pages_hold_what_was_asked_for(installation: Installation) -> None:
    alice = await installation.new_user()
    identities = [await installation.issue(alice) for _ in range(5)]
    user = f"users/{alice}"
    first = await page(installation.admin, user=user, page_size=2)
    assert [item.name for item in first.certificates] == names(identities[:2])
    second = await page(installation.admin, user=user, page_size=3, page_token=first.next_page_token)
    assert [item.name for item in second.certificates] == names(identities[2:])
    assert second.next_page_token == "", "the last page says so, however exactly it fits"
    everything = await page(installation.admin, user=user, page_size=2**31 - 1)
    assert len(everything.certificates) == 5
    assert not any(item.pem for item in everything.certificates), "not in lists, unless asked for"
    full = await page(installation.admin, user=user, view=pb.CERTIFICATE_VIEW_FULL)
    assert [item.pem.encode() for item in full.certificates] == [item.certificate_pem for item in identities]


async def test_a_walk_sees_each_certificate_once_while_others_are_put_on_file(installation: Installation) -> None:
    alice = await installation.new_user()
    before = {(await installation.issue(alice)).name for _ in range(12)}
    stop = asyncio.Event()
    added: list[str] = []

    async def keep_adding() -> None:
        while not stop.is_set():
            added.append((await installation.issue(alice)).name)

    adding = [asyncio.create_task(keep_adding()) for _ in range(2)]
    try:
        walks = [await listed(installation.admin, user=f"users/{alice}", page_size=2) for _ in range(2)]
    finally:
        stop.set()
        await asyncio.gather(*adding)
    for walk in walks:
        assert len(walk) == len(set(walk))
        assert before <= set(walk)
        assert set(walk) <= before | set(added)
    assert sorted(await listed(installation.admin, user=f"users/{alice}")) == sorted(before | set(added))


async def test_page_tokens_are_bound_to_caller_and_filters(installation: Installation) -> None:
    alice = await installation.new_user()
    manager = await installation.new_user(grants={"USER_MANAGEMENT": "users/*"})
    for _ in range(3):
        await installation.issue(alice)
    user = f"users/{alice}"
    token = (await page(installation.admin, user=user, page_size=1)).next_page_token
    assert alice not in token

    async with installation.client(await installation.issue(manager)) as client:
        calls: dict[str, Awaitable[Any]] = {
            "of another caller": page(client, user=user, page_token=token),
            "for another filter": page(installation.admin, page_token=token),
            "for one more filter": page(installation.admin, user=user, serial="1", page_token=token),
            "for another list": installation.admin.certificates.ListTrustAnchors(
                pb.ListTrustAnchorsRequest(page_token=token)
            ),
            "changed": page(installation.admin, user=user, page_token=token[:-5] + "AAAA="),
            "cut short": page(installation.admin, user=user, page_token=token[:-1]),
            "made up": page(installation.admin, user=user, page_token="page 2"),
            "not even ASCII": page(installation.admin, user=user, page_token="é" * 100),
            "too long": page(installation.admin, user=user, page_token="A" * 5000),
        }
        for call in calls.values():
            error = await refusal(call, InvalidArgument, "PAGE_TOKEN_INVALID")
            assert [violation.field for violation in error.violations] == ["page_token"]
    # Size and view are not part of the list.
    await page(installation.admin, user=user, page_token=token, page_size=7, view=pb.CERTIFICATE_VIEW_FULL)


@pytest.mark.parametrize(
    ("fields", "at_fault"),
    [
        ({"page_size": -1}, "page_size"),
        ({"page_size": -(2**31)}, "page_size"),
        ({"user": "alice"}, "user"),
        ({"user": "users/Alice"}, "user"),
        ({"states": [0]}, "states"),
        ({"states": [99]}, "states"),
        ({"serial": "0x12"}, "serial"),
        ({"serial": "f" * 41}, "serial"),
        ({"serial": ":"}, "serial"),
        ({"fingerprint": "::"}, "fingerprint"),
        ({"fingerprint": "ab"}, "fingerprint"),
        ({"fingerprint": "g" * 64}, "fingerprint"),
        ({"expire_before": Timestamp(seconds=2**62)}, "expire_before"),
        ({"expire_after": Timestamp(seconds=-(2**62))}, "expire_after"),
    ],
)
async def test_filters_that_do_not_fit_are_named(
    installation: Installation, fields: dict[str, Any], at_fault: str
) -> None:
    error = await refusal(page(installation.admin, **fields), InvalidArgument, "FIELD_INVALID")
    assert [violation.field for violation in error.violations] == [at_fault]


async def test_what_one_may_not_see_does_not_exist(installation: Installation) -> None:
    regular, powerless = await installation.new_user("regular-user"), await installation.new_user()
    prefix = f"team-{regular}"
    mate = await installation.new_user(name=f"{prefix}-mate")
    lead = await installation.new_user(grants={"USER_MANAGEMENT": f"users/{prefix}-*"})
    identities = {user: await installation.issue(user) for user in (regular, powerless, mate, lead)}
    expected = {regular: [regular], powerless: [], mate: [], lead: [mate]}
    for user, seen in expected.items():
        async with installation.client(identities[user]) as client:
            assert await listed(client) == names([identities[owner] for owner in seen])
            for owner, identity in identities.items():
                get = client.certificates.GetCertificate(pb.GetCertificateRequest(name=identity.name))
                if owner in seen:
                    assert (await get).name == identity.name
                else:
                    hidden = await refusal(get, NotFound, "CERTIFICATE_NOT_FOUND")
                    missing_name = identity.name[:-1] + ("0" if identity.name[-1] != "0" else "1")
                    missing = await refusal(
                        client.certificates.GetCertificate(pb.GetCertificateRequest(name=missing_name)),
                        NotFound,
                        "CERTIFICATE_NOT_FOUND",
                    )
                    assert hidden.message.replace(identity.name, "") == missing.message.replace(missing_name, "")
                    assert hidden.metadata == missing.metadata
                    changed = certificate_pb2.Certificate(name=identity.name, description="mine")
                    for call in (
                        client.certificates.UpdateCertificate(pb.UpdateCertificateRequest(certificate=changed)),
                        client.certificates.RevokeCertificate(pb.RevokeCertificateRequest(name=identity.name)),
                    ):
                        await refusal(call, NotFound, "CERTIFICATE_NOT_FOUND")
    async with installation.client() as nobody:
        await refusal(page(nobody), Unauthenticated, "CREDENTIALS_MISSING")


async def test_description_and_labels_can_be_changed_and_nothing_else(installation: Installation) -> None:
    alice = await installation.new_user()
    admin = installation.admin.certificates
    identity = await installation.issue(alice, description="old", labels={"a": "1", "b": "2"})
    before = await admin.GetCertificate(pb.GetCertificateRequest(name=identity.name))

    async def update(mask: list[str] | None = None, **fields: Any) -> certificate_pb2.Certificate:
        return await admin.UpdateCertificate(
            pb.UpdateCertificateRequest(
                certificate=certificate_pb2.Certificate(name=identity.name, **fields), update_mask=FieldMask(paths=mask)
            )
        )

    changed = await update(description="new")
    assert (changed.description, dict(changed.labels)) == ("new", {"a": "1", "b": "2"})
    assert changed.update_time.ToNanoseconds() > before.update_time.ToNanoseconds()
    changed = await update(["labels"], description="ignored", labels={"c": "3"})
    assert (changed.description, dict(changed.labels)) == ("new", {"c": "3"})
    changed = await update(["description", "labels"])
    assert (changed.description, dict(changed.labels)) == ("", {})
    stored = await admin.GetCertificate(pb.GetCertificateRequest(name=identity.name))
    assert stored == changed
    rest = certificate_pb2.Certificate()
    rest.CopyFrom(changed)
    rest.description = before.description
    rest.labels.clear()
    rest.labels.update(before.labels)
    rest.update_time.CopyFrom(before.update_time)
    assert rest == before
    for mask in (["user"], ["description", "state"], ["pem"], ["labels.a"]):
        error = await refusal(update(mask, user="users/admin"), InvalidArgument, "FIELD_INVALID")
        assert [violation.field for violation in error.violations] == ["update_mask"]
    await refusal(update(user="users/admin"), InvalidArgument, "FIELD_INVALID")
    await refusal(update(description="x" * 1001), InvalidArgument, "FIELD_INVALID")
    await refusal(update(labels={"no spaces": ""}), InvalidArgument, "FIELD_INVALID")
    assert await admin.GetCertificate(pb.GetCertificateRequest(name=identity.name)) == stored
