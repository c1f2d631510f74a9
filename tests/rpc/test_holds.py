"""HoldCertificate and ReinstateCertificate."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from handclasp.authorization.v1 import authorization_service_pb2 as watch_pb
from handclasp.certificate_service.domain.changes import Change, Effect
from handclasp.certificates.v1 import certificate_pb2
from handclasp.certificates.v1 import certificate_service_pb2 as pb
from handclasp.client.client import HandclaspClient
from handclasp.client.in_force import BarrierReport, in_force
from handclasp.errors import FailedPrecondition, InvalidArgument, NotFound, PermissionDenied, Unauthenticated
from tests.rpc.certificate_harness import at_once, beside, counts, refusal, trusted_ca, upload, why
from tests.support.installation import Installation, running_installation
from tests.support.raw_watcher import RawWatcher, watching_from_now

pytestmark = pytest.mark.asyncio(loop_scope="module")

State = certificate_pb2.Certificate


def get(name: str) -> pb.GetCertificateRequest:
    return pb.GetCertificateRequest(name=name)


def hold(name: str) -> pb.HoldCertificateRequest:
    return pb.HoldCertificateRequest(name=name)


def reinstate(name: str) -> pb.ReinstateCertificateRequest:
    return pb.ReinstateCertificateRequest(name=name)


async def test_a_certificate_on_hold_is_refused_until_it_is_reinstated(installation: Installation) -> None:
    alice = await installation.new_user("regular-user")
    identity, other = await installation.issue(alice), await installation.issue(alice)
    admin = installation.admin.certificates
    async with installation.client(identity) as client:
        await client.certificates.GetCertificate(get(identity.name))
        await admin.HoldCertificate(hold(identity.name))
        assert await why(installation, identity.der) == "ON_HOLD"
        # On the connection that was open all the time; nor can it take the hold back itself.
        for call in (
            client.certificates.GetCertificate(get(identity.name)),
            client.certificates.ReinstateCertificate(reinstate(identity.name)),
        ):
            await refusal(call, Unauthenticated, "CERTIFICATE_NOT_ACCEPTED")
        assert await why(installation, other.der) == "ALLOWED", "only that one"
        await admin.ReinstateCertificate(reinstate(identity.name))
        assert await why(installation, identity.der) == "ALLOWED"
        await client.certificates.GetCertificate(get(identity.name))


async def test_since_when_and_by_whom_is_kept_while_it_lasts(installation: Installation) -> None:
    identity = await installation.issue(await installation.new_user())
    admin = installation.admin.certificates
    held = await admin.HoldCertificate(hold(identity.name))
    assert await admin.GetCertificate(get(identity.name)) == held
    assert held.state == State.STATE_ON_HOLD
    assert held.hold.held_by == "users/admin"
    assert held.hold.hold_time.ToNanoseconds() >= held.create_time.ToNanoseconds()
    assert held.update_time == held.hold.hold_time
    reinstated = await admin.ReinstateCertificate(reinstate(identity.name))
    assert await admin.GetCertificate(get(identity.name)) == reinstated
    assert reinstated.state == State.STATE_ACTIVE
    assert not reinstated.HasField("hold")
    assert reinstated.update_time.ToNanoseconds() > held.update_time.ToNanoseconds()


async def test_again_it_changes_nothing(installation: Installation) -> None:
    identity = await installation.issue(await installation.new_user())
    admin = installation.admin.certificates
    before = await admin.GetCertificate(get(identity.name))
    assert await admin.ReinstateCertificate(reinstate(identity.name)) == before
    first = await in_force(admin.HoldCertificate(hold(identity.name)))
    again = await in_force(admin.HoldCertificate(hold(identity.name)))
    assert again.answer == first.answer
    assert first.barrier is not None
    assert again.barrier == first.barrier, "no revision of its own, and yet it says that it is in force"


async def test_what_is_touched(installation: Installation) -> None:
    identity = await installation.issue(await installation.new_user())
    admin = installation.admin.certificates
    async with beside(installation) as database:
        before = (await database.history_head()).revision
        for _ in range(2):
            await admin.HoldCertificate(hold(identity.name))
        for _ in range(2):
            await admin.ReinstateCertificate(reinstate(identity.name))
        revisions = await database.history(after=before, limit=10)
    assert [revision.changes for revision in revisions] == [
        (Change(identity.name, Effect.WITHDRAWN),),
        (Change(identity.name, Effect.GIVEN),),
    ]


async def test_revoked_ones_stay_revoked(installation: Installation) -> None:
    identity, held = [await installation.issue(await installation.new_user()) for _ in range(2)]
    admin = installation.admin.certificates
    await admin.HoldCertificate(hold(held.name))
    for name in (identity.name, held.name):
        await admin.RevokeCertificate(pb.RevokeCertificateRequest(name=name))
        revoked = await admin.GetCertificate(get(name))
        await refusal(admin.HoldCertificate(hold(name)), FailedPrecondition, "CERTIFICATE_REVOKED")
        await refusal(admin.ReinstateCertificate(reinstate(name)), FailedPrecondition, "CERTIFICATE_REVOKED")
        assert await admin.GetCertificate(get(name)) == revoked
        assert revoked.state == State.STATE_REVOKED
        assert revoked.HasField("hold") is (name == held.name), "the hold stays on record"
    assert await why(installation, held.der) == "REVOKED"


async def test_uploaded_ones_can_be_held_too(installation: Installation) -> None:
    ca = await trusted_ca(installation)
    leaf = ca.issue()
    uploaded = await upload(installation, await installation.new_user("regular-user"), leaf)
    await installation.admin.certificates.HoldCertificate(hold(uploaded.name))
    assert await why(installation, leaf.der) == "ON_HOLD"
    await installation.admin.certificates.ReinstateCertificate(reinstate(uploaded.name))
    assert await why(installation, leaf.der) == "ALLOWED"


async def test_who_may(installation: Installation) -> None:
    regular, powerless = await installation.new_user("regular-user"), await installation.new_user()
    own, others = await installation.issue(regular), await installation.issue(powerless)
    async with installation.client(await installation.issue(regular)) as client:
        held = await client.certificates.HoldCertificate(hold(own.name))
        assert held.hold.held_by == f"users/{regular}"
        await client.certificates.ReinstateCertificate(reinstate(own.name))
        for call in (
            client.certificates.HoldCertificate(hold(others.name)),
            client.certificates.ReinstateCertificate(reinstate(others.name)),
        ):
            await refusal(call, NotFound, "CERTIFICATE_NOT_FOUND")
    async with installation.client(others) as client:
        await refusal(client.certificates.HoldCertificate(hold(others.name)), NotFound, "CERTIFICATE_NOT_FOUND")


async def test_a_certificate_can_hold_itself(installation: Installation) -> None:
    identity = await installation.issue(await installation.new_user("regular-user"))
    async with installation.client(identity) as client:
        await client.certificates.HoldCertificate(hold(identity.name))
        await refusal(
            client.certificates.ReinstateCertificate(reinstate(identity.name)),
            Unauthenticated,
            "CERTIFICATE_NOT_ACCEPTED",
        )


async def test_reinstating_gives(installation: Installation) -> None:
    """So it is held up where an administrator's key would come back to life; holding is not."""
    target = await installation.new_user("relying-party")
    identity = await installation.issue(target)
    manager = await installation.new_user(grants={"USER_MANAGEMENT": "users/*"})
    async with installation.client(await installation.issue(manager)) as client:
        await client.certificates.HoldCertificate(hold(identity.name))
        await refusal(
            client.certificates.ReinstateCertificate(reinstate(identity.name)),
            PermissionDenied,
            "ADMINISTRATOR_PROTECTED",
        )
    assert await why(installation, identity.der) == "ON_HOLD"


async def test_names_that_are_none(installation: Installation) -> None:
    admin = installation.admin.certificates
    async with beside(installation) as database:
        before = await counts(database)
        for name in ("certificates/" + "0" * 26, "certificates/x"):
            await refusal(admin.HoldCertificate(hold(name)), NotFound, "CERTIFICATE_NOT_FOUND")
            await refusal(admin.ReinstateCertificate(reinstate(name)), NotFound, "CERTIFICATE_NOT_FOUND")
        for name in ("", "users/admin"):
            await refusal(admin.HoldCertificate(hold(name)), InvalidArgument, "FIELD_INVALID")
            await refusal(admin.ReinstateCertificate(reinstate(name)), InvalidArgument, "FIELD_INVALID")
        assert await counts(database) == before


async def test_hold_and_reinstate_at_once(installation: Installation) -> None:
    """Whatever the order, each is told of a state that was so, and the record agrees with the decisions."""
    identity = await installation.issue(await installation.new_user("regular-user"))
    admin = installation.admin.certificates
    calls = [
        admin.HoldCertificate(hold(identity.name))
        if number % 2
        else admin.ReinstateCertificate(reinstate(identity.name))
        for number in range(16)
    ]
    answers = await at_once(*calls)
    for number, answer in enumerate(answers):
        assert answer.state == (State.STATE_ON_HOLD if number % 2 else State.STATE_ACTIVE)
        assert answer.HasField("hold") is bool(number % 2)
    stored = await admin.GetCertificate(get(identity.name))
    assert await why(installation, identity.der) == ("ON_HOLD" if stored.state == State.STATE_ON_HOLD else "ALLOWED")


async def test_revoking_wins_over_a_hold_and_a_reinstatement(installation: Installation) -> None:
    admin = installation.admin.certificates
    for _ in range(5):
        identity = await installation.issue(await installation.new_user("regular-user"))
        await at_once(
            admin.HoldCertificate(hold(identity.name)),
            admin.RevokeCertificate(pb.RevokeCertificateRequest(name=identity.name)),
            admin.ReinstateCertificate(reinstate(identity.name)),
            admin.HoldCertificate(hold(identity.name)),
        )
        assert await why(installation, identity.der) == "REVOKED"


async def test_the_log_says_who_did_it(installation: Installation) -> None:
    identity = await installation.issue(await installation.new_user())
    for _ in range(2):
        await installation.admin.certificates.HoldCertificate(hold(identity.name))
    for _ in range(2):
        await installation.admin.certificates.ReinstateCertificate(reinstate(identity.name))
    lines = [line for line in installation.log.read_text().splitlines() if identity.name in line]
    for event in ("certificate_held", "certificate_reinstated"):
        (line,) = [line for line in lines if event in line]
        assert "users/admin" in line


async def collect_effects(watcher: RawWatcher, name: str, effects: list[str]) -> None:
    """What happens to that name, until cancelled."""
    while True:
        for change in (await watcher.receive()).changes.changes:
            if change.name == name:
                effects += [watch_pb.Change.Effect.Name(effect) for effect in change.effects]


async def in_turn(client: HandclaspClient, name: str) -> list[BarrierReport | None]:
    """The barriers of a hold and a reinstatement, each twice."""
    certificates = client.certificates
    held = [await in_force(certificates.HoldCertificate(hold(name))) for _ in range(2)]
    reinstated = [await in_force(certificates.ReinstateCertificate(reinstate(name))) for _ in range(2)]
    return [done.barrier for done in (*held, *reinstated)]


@pytest.mark.parametrize("acknowledges", [True, False])
async def test_each_waits_for_the_relying_parties(tmp_path: Path, database_url: str, acknowledges: bool) -> None:
    """Also those that find nothing to change: the first of two such calls may still be waiting."""
    async with running_installation(tmp_path, database_url, lease=0.6, ping_interval=0.1) as installation:
        identity = await installation.issue(await installation.new_user())
        effects: list[str] = []
        async with watching_from_now(installation) as watcher:
            await watcher.lease()
            pinging = watcher.pinging(None if acknowledges else watcher.position.revision)
            collecting = asyncio.create_task(collect_effects(watcher, identity.name, effects))
            barriers = await in_turn(installation.admin, identity.name)
            pinging.cancel()
            collecting.cancel()
    found = [barrier and (barrier.acknowledged, barrier.leases_ended) for barrier in barriers]
    assert found == [(1, 0) if acknowledges else (0, 1)] * 4
    assert effects == ["EFFECT_WITHDRAWN", "EFFECT_GIVEN"]
