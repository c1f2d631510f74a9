"""Several certificate services on one PostgreSQL, in the test's process: what each of them learns of the others."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from google.protobuf.field_mask_pb2 import FieldMask

from handclasp.accounts.v1 import account_service_pb2 as accounts
from handclasp.accounts.v1.user_pb2 import User
from handclasp.authorization.v1 import decision_pb2
from handclasp.authorization.v1.authorization_service_pb2 import ExplainDecisionRequest
from handclasp.certificates.v1 import certificate_service_pb2 as pb
from handclasp.certificates.v1.certificate_pb2 import Certificate
from handclasp.client.csr import make_key_and_request
from handclasp.errors import HandclaspError
from tests.rpc.certificate_harness import add_anchor, at_once, decide, upload, upload_request, why
from tests.rpc.test_watch import next_effects, revoke
from tests.support.installation import Identity, Installation, running_installation, share_keys
from tests.support.outside_ca import OutsideCA
from tests.support.postgres import PostgresServer
from tests.support.raw_watcher import watching, watching_from_now

pytestmark = pytest.mark.asyncio(loop_scope="module")

LEASE = 0.9


@pytest.fixture(scope="module", params=[True, False], ids=["hearing", "deaf"])
def notifications(request: pytest.FixtureRequest) -> bool:
    """Whether they hear each other's notifications."""
    return bool(request.param)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def both(
    notifications: bool, postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[Installation, Installation]]:
    """Two services, with the same keys."""
    folders = [tmp_path_factory.mktemp(f"replica-{number}") for number in (1, 2)]
    with postgres.database() as url:
        settings = {"lease": LEASE, "ping_interval": 0.1, "database_notifications": notifications}
        async with running_installation(folders[0], url, **settings) as first:
            share_keys(*(folder / "data" for folder in folders))
            async with running_installation(folders[1], url, **settings) as second:
                yield first, second


async def fresh(installation: Installation) -> Identity:
    return await installation.issue(await installation.new_user("regular-user"))


Both = tuple[Installation, Installation]


async def test_each_decides_by_what_the_other_did(both: Both) -> None:
    first, second = both
    identity = await fresh(first)
    assert await why(second, identity.der) == "ALLOWED"
    await revoke(second, identity.name)
    assert await why(first, identity.der) == "REVOKED"


async def test_who_watches_one_learns_what_is_changed_at_the_other(both: Both) -> None:
    first, second = both
    identity = await fresh(first)
    async with watching_from_now(second) as watcher:
        await watcher.lease()
        revoking = asyncio.create_task(revoke(first, identity.name))
        # That it was given may come first, if the other had not heard of that yet.
        while "WITHDRAWN" not in await next_effects(watcher, identity.name):
            pass
        await asyncio.sleep(0.05)
        assert not revoking.done(), "it waits for those who watch the other, too"
        await watcher.acknowledge()
        said = await revoking
        assert said["acknowledged"] >= 1


async def test_a_silent_watcher_of_the_other_is_waited_for_until_its_lease_is_over(both: Both) -> None:
    first, second = both
    await asyncio.sleep(1.1 * LEASE)
    identity = await fresh(first)
    async with watching_from_now(second) as watcher:
        await watcher.lease()
        begin = time.monotonic()
        said = await revoke(first, identity.name)
        assert said["leases-ended"] >= 1
        assert time.monotonic() - begin > LEASE / 3


async def test_that_a_watcher_of_the_other_lost_its_right_is_told(both: Both, notifications: bool) -> None:
    first, second = both
    await asyncio.sleep(1.1 * LEASE)
    identity = await first.issue(await first.new_user("relying-party"))
    async with watching_from_now(second, identity) as watcher:
        await watcher.lease()
        said = await revoke(first, identity.name)
        # The row that is read instead of a notification does not say so.
        assert said["rights-lost"] == (1 if notifications else 0)


async def test_changes_at_both_at_once_come_in_order_and_without_gaps(both: Both) -> None:
    first, second = both
    async with watching_from_now(first) as one, watching_from_now(second) as other:
        begin = one.position.revision
        identities = await asyncio.gather(*(fresh(both[number % 2]) for number in range(20)))
        names = {identity.name for identity in identities}
        for watcher in (one, other):
            seen: list[str] = []
            while not names <= set(seen):
                message = await watcher.expect("changes")
                seen += [change.name for change in message.changes]
            assert len(seen) == len(set(seen)), "each once"
        assert one.position.revision >= begin + 2


async def test_a_watcher_goes_over_to_the_other_without_a_reset(both: Both) -> None:
    first, second = both
    async with watching_from_now(first) as one:
        await one.lease()
    identity = await fresh(first)
    async with watching(second, process_id=one.process_id, applied=one.position) as again:
        await again.expect("welcome")
        assert await next_effects(again, identity.name) == {"GIVEN"}


async def test_a_lease_of_one_is_waited_for_even_if_its_holder_watches_the_other_by_now(both: Both) -> None:
    """The record is the first one's, and so is the wait; the second knows nothing of it."""
    first, second = both
    await asyncio.sleep(1.1 * LEASE)
    identity = await fresh(first)
    async with watching_from_now(first) as one:
        await one.lease()
    begin = time.monotonic()
    await revoke(second, identity.name)
    assert time.monotonic() - begin > LEASE / 3


async def test_an_anchor_added_at_one_is_let_in_by_the_other_at_once(both: Both) -> None:
    first, second = both
    ca = OutsideCA("Anchor of both", now=first.clock())
    anchor = await add_anchor(first, ca)
    user_id = await first.new_user("regular-user")
    leaf = ca.issue(user_id)
    name = (await upload(first, user_id, leaf)).name
    identity = Identity(name, leaf.pem.encode(), leaf.key_pem.encode())
    request = pb.GetCertificateRequest(name=name)
    async with second.client(identity) as client:
        await client.certificates.GetCertificate(request)
    await second.admin.certificates.RemoveTrustAnchor(pb.RemoveTrustAnchorRequest(name=anchor))
    async with first.client(identity) as client:
        with pytest.raises(HandclaspError) as caught:
            await client.certificates.GetCertificate(request)
    assert caught.value.reason == "HANDSHAKE_REFUSED"


async def test_a_retry_at_the_other_gets_the_same_certificate(both: Both) -> None:
    first, second = both
    user_id = await first.new_user("regular-user")
    made = make_key_and_request(user_id)
    request = pb.IssueCertificateRequest(
        user=f"users/{user_id}", csr_pem=made.csr_pem.decode(), request_id=f"once-{user_id}"
    )
    one = await first.admin.certificates.IssueCertificate(request)
    other = await second.admin.certificates.IssueCertificate(request)
    assert other.certificate.name == one.certificate.name
    request.request_id = f"twice-{user_id}"
    answers = await at_once(*(both[number % 2].admin.certificates.IssueCertificate(request) for number in range(8)))
    assert len({answer.certificate.name for answer in answers}) == 1


async def test_whatever_has_a_request_id_is_done_once_also_by_both_at_once(both: Both) -> None:
    """A client goes to the other one while the first attempt may still be under way."""
    first, second = both
    ca = OutsideCA("Anchor for retries", now=first.clock())
    await add_anchor(first, ca)
    for number in range(4):
        user_id = await first.new_user("regular-user")
        identity = await first.issue(user_id)
        renew = pb.RenewCertificateRequest(
            name=identity.name, csr_pem=make_key_and_request(user_id).csr_pem.decode(), request_id=f"renew-{user_id}"
        )
        send = upload_request(user_id, ca.issue(f"{user_id}-{number}"), request_id=f"upload-{user_id}")
        async with first.client(identity) as here, second.client(identity) as there:
            renewed = await at_once(*(one.certificates.RenewCertificate(renew) for one in (here, there) * 3))
        uploaded = await at_once(*(one.admin.certificates.UploadCertificate(send) for one in both * 3))
        for answers in (renewed, uploaded):
            assert not [answer for answer in answers if isinstance(answer, BaseException)], answers
            assert len({answer.name for answer in answers}) == 1
        listed = await first.admin.certificates.ListCertificates(pb.ListCertificatesRequest(user=f"users/{user_id}"))
        assert len(listed.certificates) == 3


async def test_the_last_administrator_stays_whoever_disables_the_others(
    postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Both look at the same moment, and each sees that the other one's is still there."""
    folders = [tmp_path_factory.mktemp(f"administrators-{number}") for number in (1, 2)]
    with postgres.database() as url:
        async with running_installation(folders[0], url) as first:
            share_keys(*(folder / "data" for folder in folders))
            async with running_installation(folders[1], url) as second:
                other = await first.issue(await first.new_user("administrator", name="other"))
                async with second.client(other) as second_admin:
                    answers = await at_once(
                        first.admin.accounts.DisableUser(accounts.DisableUserRequest(name="users/other")),
                        second_admin.accounts.DisableUser(accounts.DisableUserRequest(name="users/admin")),
                    )
    refused = [answer for answer in answers if isinstance(answer, HandclaspError)]
    assert len(refused) == 1, answers
    assert refused[0].reason in {"LAST_ADMINISTRATOR", "CERTIFICATE_NOT_ACCEPTED"}


async def test_a_change_of_one_does_not_undo_that_of_the_other(both: Both) -> None:
    """A user who is disabled at one while being changed at the other stays disabled."""
    first, second = both
    for _ in range(10):
        name = f"users/{await first.new_user('regular-user')}"
        changed = User(name=name, display_name="Somebody")
        await asyncio.gather(
            first.admin.accounts.DisableUser(accounts.DisableUserRequest(name=name)),
            second.admin.accounts.UpdateUser(accounts.UpdateUserRequest(user=changed)),
        )
        user = await first.admin.accounts.GetUser(accounts.GetUserRequest(name=name))
        assert (user.state, user.display_name) == (User.STATE_DISABLED, "Somebody")


async def test_what_is_written_at_one_of_a_certificate_does_not_undo_what_is_written_at_the_other(both: Both) -> None:
    first, second = both
    identity = await fresh(first)
    for number in range(10):
        described = Certificate(name=identity.name, description=f"number {number}")
        labelled = Certificate(name=identity.name, labels={"number": str(number)})
        await asyncio.gather(
            first.admin.certificates.UpdateCertificate(
                pb.UpdateCertificateRequest(certificate=described, update_mask=FieldMask(paths=["description"]))
            ),
            second.admin.certificates.UpdateCertificate(
                pb.UpdateCertificateRequest(certificate=labelled, update_mask=FieldMask(paths=["labels"]))
            ),
        )
        found = await first.admin.certificates.GetCertificate(pb.GetCertificateRequest(name=identity.name))
        assert (found.description, dict(found.labels)) == (described.description, dict(labelled.labels))


async def test_an_anchor_that_is_removed_at_both_is_in_nobodys_way(both: Both) -> None:
    """Whoever waits for the other one's row must not have what that one waits for."""
    first, _ = both
    for number in range(3):
        anchor = await add_anchor(first, OutsideCA(f"Removed {number}", now=first.clock()))
        request = pb.RemoveTrustAnchorRequest(name=anchor)
        at = [both[index % 2].admin.certificates for index in range(6)]
        answers = await at_once(*(certificates.RemoveTrustAnchor(request) for certificates in at))
        refused = [answer.reason for answer in answers if isinstance(answer, HandclaspError)]
        assert refused == ["TRUST_ANCHOR_NOT_FOUND"] * 5


async def test_a_third_one_that_dies_leaves_a_lease_that_runs_out(
    both: Both, tmp_path_factory: pytest.TempPathFactory
) -> None:
    first, _ = both
    folder = tmp_path_factory.mktemp("third")
    share_keys(first.settings.data_dir, folder / "data")
    url = first.settings.url()
    settings = {"lease": LEASE, "ping_interval": 0.1}
    identity = await fresh(first)
    async with running_installation(folder, url, **settings) as third, watching_from_now(third) as watcher:
        await watcher.lease()
    # It is stopped, and its row still there.
    begin = time.monotonic()
    await revoke(first, identity.name)
    assert time.monotonic() - begin < 5 * LEASE
    later = []
    for _ in range(3):
        identity = await fresh(first)
        begin = time.monotonic()
        await revoke(first, identity.name)
        later.append(time.monotonic() - begin)
    assert min(later) < LEASE / 2, "and then it is forgotten"


async def test_a_decision_of_one_is_explained_by_the_other_soon(both: Both) -> None:
    first, second = both
    identity = await fresh(first)
    await revoke(first, identity.name)
    decision = await decide(first, identity.der)
    async with asyncio.timeout(20):
        while True:
            try:
                explained = await second.admin.authorization.ExplainDecision(ExplainDecisionRequest(name=decision.name))
            except HandclaspError as error:
                if error.reason != "DECISION_NOT_FOUND":
                    raise
                await asyncio.sleep(0.1)
            else:
                break
    assert explained.decision.reason == decision_pb2.DECISION_REASON_REVOKED
    assert explained.decision.certificate == identity.name


async def test_what_the_others_settled_is_counted(both: Both) -> None:
    first, second = both
    identity = await fresh(first)
    async with watching_from_now(second) as watcher:
        await watcher.lease()
        busy = [watcher.obeying(), watcher.pinging()]
        said = await revoke(first, identity.name)
        for task in busy:
            task.cancel()
    assert said["acknowledged"] >= 1


async def test_nothing_is_issued_at_one_after_all_was_revoked_at_the_other(both: Both) -> None:
    """Whichever of the two transactions comes first: the new certificate is revoked with the others, or is not made."""
    first, second = both
    for _ in range(10):
        user_id = await first.new_user("regular-user")
        identity = await first.issue(user_id)
        async with first.client(identity) as thief:
            requests = [
                pb.IssueCertificateRequest(
                    user=f"users/{user_id}", csr_pem=make_key_and_request(user_id).csr_pem.decode()
                )
                for _ in range(5)
            ]
            await at_once(
                *(thief.certificates.IssueCertificate(request) for request in requests),
                second.admin.certificates.RevokeUserCertificates(
                    pb.RevokeUserCertificatesRequest(user=f"users/{user_id}")
                ),
            )
        listed = await first.admin.certificates.ListCertificates(pb.ListCertificatesRequest(user=f"users/{user_id}"))
        assert {one.state for one in listed.certificates} == {Certificate.STATE_REVOKED}
