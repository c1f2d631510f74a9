"""WatchAuthorization and the barrier, with relying parties that tests play: the service's side of the protocol."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.protobuf.field_mask_pb2 import FieldMask
from structlog.testing import capture_logs

from handclasp.accounts.v1 import access_profile_pb2, user_pb2
from handclasp.accounts.v1 import account_service_pb2 as accounts
from handclasp.authorization.v1 import authorization_service_pb2 as watch_pb
from handclasp.authorization.v1 import permission_pb2
from handclasp.certificate_service.use_cases.watch_authorization import Watch
from handclasp.certificates.v1 import certificate_service_pb2 as pb
from handclasp.certificates.v1.certificate_service_pb2_grpc import CertificateServiceStub
from handclasp.errors import NotFound
from tests.rpc.certificate_harness import add_anchor, decide, refusal, upload
from tests.support.installation import Identity, Installation, running_installation
from tests.support.outside_ca import OutsideCA
from tests.support.raw_watcher import RawWatcher, Request, new_process_id, opened, watching, watching_from_now

pytestmark = pytest.mark.asyncio(loop_scope="module")

Effect = watch_pb.Change.Effect
LEASE = 0.8


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def installation(
    module_database_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Installation]:
    """With short leases, since many tests wait for one to run out."""
    folder: Path = tmp_path_factory.mktemp("installation")
    async with running_installation(folder, module_database_url, lease=LEASE, ping_interval=0.1) as running:
        yield running


async def revoke(installation: Installation, name: str) -> dict[str, int]:
    """Revokes, and returns what the trailing metadata says, by the last part of each key."""
    return await taking_away(installation, "RevokeCertificate", pb.RevokeCertificateRequest(name=name))


async def taking_away(installation: Installation, method: str, request: Any) -> dict[str, int]:
    who = installation.admin_identity
    credentials = grpc.ssl_channel_credentials(installation.ca_pem, who.key_pem, who.certificate_pem)
    async with grpc.aio.secure_channel(installation.mtls_address, credentials) as channel:
        call = getattr(CertificateServiceStub(channel), method)(request)
        await call
        metadata = await call.trailing_metadata()
    return {key.removeprefix("handclasp-"): int(value) for key, value in metadata if key.startswith("handclasp-")}


async def without_leases() -> None:
    """Waits until those that other tests have left behind are over."""
    await asyncio.sleep(1.1 * LEASE)


async def fresh(installation: Installation) -> Identity:
    return await installation.issue(await installation.new_user("regular-user"))


async def next_effects(watcher: RawWatcher, name: str) -> set[str]:
    """What happened to that name, in the next message that says something of it."""
    while True:
        changes = await watcher.expect("changes")
        for change in changes.changes:
            if change.name == name:
                return {Effect.Name(effect).removeprefix("EFFECT_") for effect in change.effects}


async def test_a_watch_begins_with_a_reset_and_goes_on_with_each_change(installation: Installation) -> None:
    async with watching(installation) as watcher:
        welcome = await watcher.expect("welcome")
        assert welcome.lease.ToTimedelta() == timedelta(seconds=LEASE)
        assert welcome.ping_interval.ToTimedelta() == timedelta(seconds=0.1)
        reset = await watcher.expect("reset")
        assert not reset.history_lost
        alice = await installation.new_user("regular-user")
        identity = await installation.issue(alice)
        changes = await watcher.expect("changes")
        assert changes.position.revision == reset.position.revision + 1
        assert [change.name for change in changes.changes] == [identity.name]
        assert list(changes.changes[0].effects) == [Effect.EFFECT_GIVEN]


async def test_every_change_that_a_decision_can_depend_on_moves_the_revision(installation: Installation) -> None:
    admin = installation.admin
    async with watching_from_now(installation) as watcher:
        alice = await installation.new_user("regular-user", password="a first password 1")
        user = f"users/{alice}"
        identity = await installation.issue(alice)
        assert await next_effects(watcher, identity.name) == {"GIVEN"}

        ca = OutsideCA("Watched CA", now=installation.clock())
        anchor = await add_anchor(installation, ca)
        assert await next_effects(watcher, anchor) == {"GIVEN"}
        uploaded = await upload(installation, alice, ca.issue("alice"))
        assert await next_effects(watcher, uploaded.name) == {"GIVEN"}
        await admin.certificates.RemoveTrustAnchor(pb.RemoveTrustAnchorRequest(name=anchor))
        assert await next_effects(watcher, anchor) == {"WITHDRAWN"}

        await admin.certificates.RevokeCertificate(pb.RevokeCertificateRequest(name=identity.name))
        assert await next_effects(watcher, identity.name) == {"WITHDRAWN"}

        profile = await installation.new_profile({"EXECUTE_INTEGRATIONS": "integrations/echo"})
        grants = [permission_pb2.Grant(permission=permission_pb2.PERMISSION_VIEW_EXECUTIONS)]
        edited = access_profile_pb2.AccessProfile(name=f"accessProfiles/{profile}", grants=grants)
        await admin.accounts.UpdateAccessProfile(accounts.UpdateAccessProfileRequest(access_profile=edited))
        assert await next_effects(watcher, edited.name) == {"ALTERED"}

        changed = user_pb2.User(name=user, access_profiles=[edited.name])
        await admin.accounts.UpdateUser(accounts.UpdateUserRequest(user=changed))
        assert await next_effects(watcher, user) == {"ALTERED"}
        await admin.accounts.SetPassword(accounts.SetPasswordRequest(name=user, new_password="another password 2"))
        assert await next_effects(watcher, user) == {"CREDENTIALS"}
        await admin.accounts.DisableUser(accounts.DisableUserRequest(name=user))
        assert await next_effects(watcher, user) == {"WITHDRAWN"}
        await admin.accounts.EnableUser(accounts.EnableUserRequest(name=user))
        assert await next_effects(watcher, user) == {"GIVEN"}
        await admin.certificates.RevokeUserCertificates(pb.RevokeUserCertificatesRequest(user=user))
        assert await next_effects(watcher, user) == {"WITHDRAWN"}


async def test_what_touches_no_decision_moves_nothing(installation: Installation) -> None:
    identity = await fresh(installation)
    name = (await installation.admin.certificates.GetCertificate(pb.GetCertificateRequest(name=identity.name))).user
    before = (await decide(installation, identity.der)).revision
    described = user_pb2.User(name=name, display_name="Somebody")
    await installation.admin.accounts.UpdateUser(accounts.UpdateUserRequest(user=described))
    assert (await decide(installation, identity.der)).revision == before


async def test_a_decision_names_its_revision_and_what_it_rests_on(installation: Installation) -> None:
    alice = await installation.new_user("regular-user")
    identity = await installation.issue(alice)
    first = await decide(installation, identity.der)
    assert set(first.rests_on) == {identity.name, f"users/{alice}", "accessProfiles/regular-user"}
    await fresh(installation)
    second = await decide(installation, identity.der, min_revision=first.revision + 1)
    assert second.revision > first.revision
    await revoke(installation, identity.name)
    refused = await decide(installation, identity.der)
    assert (refused.allowed, list(refused.rests_on)) == (False, [])
    assert refused.revision > second.revision


async def test_taking_away_waits_for_the_acknowledgement_and_counts_it(installation: Installation) -> None:
    identity = await fresh(installation)
    async with watching_from_now(installation) as watcher:
        await watcher.lease()
        revoking = asyncio.create_task(revoke(installation, identity.name))
        assert await next_effects(watcher, identity.name) == {"WITHDRAWN"}
        await asyncio.sleep(0.1)
        assert not revoking.done(), "it was told, and has not acknowledged"
        await watcher.acknowledge()
        said = await revoking
        assert said["acknowledged"] >= 1
        assert said["revision"] == watcher.position.revision


async def test_a_watcher_that_is_silent_is_waited_for_until_its_lease_is_over(installation: Installation) -> None:
    await without_leases()
    identity = await fresh(installation)
    async with watching_from_now(installation) as watcher:
        await watcher.lease()
        begin = time.monotonic()
        said = await revoke(installation, identity.name)
        assert (said["leases-ended"], said["rights-lost"]) == (1, 0)
        assert time.monotonic() - begin > LEASE / 2, "the lease was fresh"


async def test_an_anchor_that_is_gone_already_is_waited_for_just_the_same(installation: Installation) -> None:
    """Rule 15: whoever removed it may have left before that was in force."""
    await without_leases()
    request = pb.RemoveTrustAnchorRequest(name=await add_anchor(installation, OutsideCA("Soon gone")))
    async with watching_from_now(installation) as watcher:
        await watcher.lease()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(installation.admin.certificates.RemoveTrustAnchor(request), LEASE / 6)
        begin = time.monotonic()
        await refusal(installation.admin.certificates.RemoveTrustAnchor(request), NotFound, "TRUST_ANCHOR_NOT_FOUND")
        assert time.monotonic() - begin > LEASE / 2, "the lease was fresh"


async def test_one_that_pings_and_never_acknowledges_does_not_hold_it_up_for_ever(installation: Installation) -> None:
    """Rule 10: later renewals do not prolong the wait."""
    await without_leases()
    identity = await fresh(installation)
    async with watching_from_now(installation) as watcher:
        before = watcher.position.revision
        await watcher.lease()
        pinging = watcher.pinging(acknowledged=before)
        try:
            said = await asyncio.wait_for(revoke(installation, identity.name), 20 * LEASE)
        finally:
            pinging.cancel()
        assert said["leases-ended"] == 1


async def test_a_stream_that_closes_frees_no_lease(installation: Installation) -> None:
    """Rule 11."""
    await without_leases()
    identity = await fresh(installation)
    async with watching_from_now(installation) as watcher:
        await watcher.lease()
    begin = time.monotonic()
    said = await revoke(installation, identity.name)
    assert said["leases-ended"] == 1
    assert time.monotonic() - begin > LEASE / 2


async def test_an_acknowledgement_on_a_later_stream_of_the_same_process_counts(installation: Installation) -> None:
    """Rules 12 and 16: records belong to a process, and the start of a stream acknowledges."""
    identity = await fresh(installation)
    async with watching_from_now(installation) as first:
        await first.lease()
        revoking = asyncio.create_task(revoke(installation, identity.name))
        assert await next_effects(first, identity.name) == {"WITHDRAWN"}
    async with watching(installation, process_id=first.process_id, applied=first.position) as second:
        assert (await revoking)["acknowledged"] >= 1
        await second.expect("welcome")


async def test_another_process_cannot_acknowledge_in_its_place(installation: Installation) -> None:
    await without_leases()
    identity = await fresh(installation)
    other = await installation.issue(await installation.new_user("relying-party"))
    async with watching_from_now(installation) as silent:
        await silent.lease()
        # The same process id, but another user.
        async with watching(installation, other, process_id=silent.process_id) as impostor:
            await impostor.expect("welcome")
            await impostor.expect("reset")
            await impostor.lease()
            obeying = impostor.obeying()
            said = await revoke(installation, identity.name)
            obeying.cancel()
    assert said["leases-ended"] == 1


async def test_nobody_can_acknowledge_what_it_was_not_told(installation: Installation) -> None:
    await without_leases()
    identity = await fresh(installation)
    async with watching_from_now(installation) as watcher:
        await watcher.lease(acknowledged=2**62)
        said = await revoke(installation, identity.name)
        assert said["leases-ended"] == 1


async def test_a_ping_acknowledges_too(installation: Installation) -> None:
    """Rule 16."""
    await without_leases()
    identity = await fresh(installation)
    async with watching_from_now(installation) as watcher:
        await watcher.lease()
        revoking = asyncio.create_task(revoke(installation, identity.name))
        await next_effects(watcher, identity.name)
        await watcher.ping()
        assert (await revoking)["leases-ended"] == 0


async def test_a_pong_follows_all_changes_that_are_due(installation: Installation) -> None:
    """Rule 3: in whatever order they come in, a pong names what the stream has said by then."""
    async with watching_from_now(installation) as watcher:
        for _ in range(20):
            issuing = asyncio.create_task(fresh(installation))
            number = await watcher.ping()
            told = watcher.position.revision
            while True:
                message = await watcher.receive()
                if message.WhichOneof("message") == "pong":
                    break
                told = watcher.position.revision
            assert message.pong.number == number
            assert message.pong.revision == told
            identity = await issuing
            await watcher.lease()
            # What was committed and answered before the ping is due before its pong.
            assert watcher.position.revision >= (await decide(installation, identity.der)).revision


async def test_revoking_again_waits_again(installation: Installation) -> None:
    """Rule 15."""
    await without_leases()
    identity = await fresh(installation)
    await revoke(installation, identity.name)
    async with watching_from_now(installation) as watcher:
        await watcher.lease()
        again = await revoke(installation, identity.name)
        assert again["acknowledged"] >= 1, "it began after that revision, and so has applied it"


async def test_revoking_again_waits_for_the_first_time(installation: Installation) -> None:
    """Rule 15: also while the first call still waits."""
    await without_leases()
    other = await fresh(installation)
    async with watching_from_now(installation) as watcher:
        await watcher.lease()
        first = asyncio.create_task(revoke(installation, other.name))
        await next_effects(watcher, other.name)
        second = asyncio.create_task(revoke(installation, other.name))
        await asyncio.sleep(0.1)
        assert not second.done(), "the first one has not been acknowledged yet"
        await watcher.acknowledge()
        assert (await first)["leases-ended"] == (await second)["leases-ended"] == 0


async def test_a_caller_who_leaves_undoes_nothing(installation: Installation) -> None:
    identity = await fresh(installation)
    async with watching_from_now(installation) as watcher:
        await watcher.lease()
        revoking = asyncio.create_task(revoke(installation, identity.name))
        await next_effects(watcher, identity.name)
        revoking.cancel()
        assert not (await decide(installation, identity.der)).allowed


async def test_it_resumes_where_it_was(installation: Installation) -> None:
    async with watching_from_now(installation) as first:
        pass
    identities = [await fresh(installation) for _ in range(3)]
    async with watching(installation, process_id=first.process_id, applied=first.position) as second:
        await second.expect("welcome")
        names: list[str] = []
        while len(names) < 3:
            names += [change.name for change in (await second.expect("changes")).changes]
    assert names == [identity.name for identity in identities]


async def test_changes_that_are_joined_keep_all_their_effects(installation: Installation) -> None:
    """Rule 17."""
    user_id = await installation.new_user("regular-user")
    name = f"users/{user_id}"
    async with watching_from_now(installation) as first:
        pass
    await installation.admin.accounts.DisableUser(accounts.DisableUserRequest(name=name))
    await installation.admin.accounts.EnableUser(accounts.EnableUserRequest(name=name))
    async with watching(installation, process_id=first.process_id, applied=first.position) as second:
        await second.expect("welcome")
        assert await next_effects(second, name) == {"WITHDRAWN", "GIVEN"}


@pytest.mark.parametrize("lost", ["mark", "revision"])
async def test_another_history_is_a_reset(installation: Installation, lost: str) -> None:
    async with watching_from_now(installation) as first:
        await fresh(installation)
        await first.expect("changes")
    applied = first.position
    if lost == "mark":
        applied.mark ^= 1
    else:
        applied.revision += 1000
    async with watching(installation, process_id=first.process_id, applied=applied) as second:
        await second.expect("welcome")
        reset = await second.expect("reset")
    assert reset.history_lost == (lost == "revision")


async def test_a_relying_party_whose_right_ends_is_told_and_granted_nothing_more(installation: Installation) -> None:
    await without_leases()
    user_id = await installation.new_user("relying-party")
    identity = await installation.issue(user_id)
    async with watching_from_now(installation, identity) as watcher:
        await watcher.lease()
        begin = time.monotonic()
        said = await revoke(installation, identity.name)
        assert (said["leases-ended"], said["rights-lost"]) == (1, 1)
        assert time.monotonic() - begin > LEASE / 2
        assert await watcher.end() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_profile_that_gives_the_right_can_be_edited_away(installation: Installation) -> None:
    profile = await installation.new_profile({"AUTHORIZE_PEERS": "integrations/*"})
    identity = await installation.issue(await installation.new_user(profile))
    async with watching_from_now(installation, identity) as watcher:
        edited = access_profile_pb2.AccessProfile(name=f"accessProfiles/{profile}")
        edit = accounts.UpdateAccessProfileRequest(access_profile=edited, update_mask=FieldMask(paths=["grants"]))
        await installation.admin.accounts.UpdateAccessProfile(edit)
        assert await watcher.end() is grpc.StatusCode.PERMISSION_DENIED


async def test_one_whose_certificate_expires_is_granted_nothing_more(installation: Installation) -> None:
    identity = await installation.issue(await installation.new_user("relying-party"))
    async with watching_from_now(installation, identity) as watcher:
        await watcher.lease()
        with installation.clock.ahead(timedelta(days=91)):
            await watcher.ping()
            assert await watcher.end() is grpc.StatusCode.UNAUTHENTICATED


async def test_without_the_permission_nobody_watches(installation: Installation) -> None:
    identity = await fresh(installation)
    async with watching(installation, identity) as watcher:
        assert await watcher.end() is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize("process_id", ["", "short", "X" * 32, "a" * 65, "0" * 15])
async def test_a_process_id_must_be_one(installation: Installation, process_id: str) -> None:
    async with opened(installation) as watcher:
        await watcher.call.write(Request(start=Request.Start(process_id=process_id)))
        assert await watcher.end() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    "first",
    [
        Request(ping=Request.Ping(number=1)),
        Request(acknowledgement=Request.Acknowledgement(revision=1)),
        Request(),
        None,
    ],
    ids=["ping", "acknowledgement", "nothing", "end"],
)
async def test_a_watch_must_be_started(installation: Installation, first: Request | None) -> None:
    async with opened(installation) as watcher:
        if first is None:
            await watcher.call.done_writing()
        else:
            await watcher.call.write(first)
        assert await watcher.end() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_second_start_ends_the_watch(installation: Installation) -> None:
    async with watching_from_now(installation) as watcher:
        await watcher.call.write(Request(start=Request.Start(process_id=new_process_id())))
        assert await watcher.end() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_bug_in_reading_a_watch_ends_it_and_can_be_found_in_the_log(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("not for the wire")

    async with watching_from_now(installation) as watcher:
        monkeypatch.setattr(Watch, "ping", broken)
        with capture_logs() as logs:
            await watcher.ping()
            assert await watcher.end() is grpc.StatusCode.INTERNAL
        details = await watcher.call.details()
    [entry] = [entry for entry in logs if entry["event"] == "unforeseen_error"]
    assert entry["incident"] in details
    assert "not for the wire" not in details


async def test_one_users_processes_leave_room_for_others(tmp_path: Path, database_url: str) -> None:
    """Another relying party can begin to watch, and go on, whatever one user's processes hold."""
    async with (
        running_installation(tmp_path, database_url, maximum_watchers_per_user=3, maximum_watchers=6) as installation,
        AsyncExitStack() as stack,
    ):
        greedy = await installation.issue(
            await installation.new_user(grants={"AUTHORIZE_PEERS": "integrations/nothing"})
        )
        another = await installation.issue(await installation.new_user("relying-party"))
        for _ in range(3):
            await stack.enter_async_context(watching_from_now(installation, greedy))
        for _ in range(5):
            refused = await stack.enter_async_context(watching(installation, greedy))
            assert await refused.end() is grpc.StatusCode.RESOURCE_EXHAUSTED
        for _ in range(3):
            await stack.enter_async_context(watching_from_now(installation, another))
