"""In which order a watch says things, whatever comes in between: no network, so that each interleaving can be had."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from functools import partial
from typing import Any

import pytest
import pytest_asyncio

from handclasp.certificate_service.domain.certificates import Revocation, RevocationReason
from handclasp.certificate_service.domain.changes import Change, Effect, Position, Revision
from handclasp.certificate_service.domain.decisions import UserFacts
from handclasp.certificate_service.domain.permissions import Grant, Permission, ProfileGrant
from handclasp.certificate_service.storage.certificates import revoke_certificate
from handclasp.certificate_service.storage.database import Database, Transaction
from handclasp.certificate_service.storage.facts import FactsReader
from handclasp.certificate_service.use_cases.access import Access
from handclasp.certificate_service.use_cases.authentication import Authenticator
from handclasp.certificate_service.use_cases.caller import Caller
from handclasp.certificate_service.use_cases.denial_log import DenialLimits, DenialLog
from handclasp.certificate_service.use_cases.watch_authorization import (
    Changes,
    Message,
    Pong,
    Reset,
    Watch,
    WatchAuthorization,
    WatchLimits,
    WatchParts,
    Welcome,
)
from handclasp.certificate_service.watching.feed import ChangeFeed
from handclasp.certificate_service.watching.leases import Leases
from handclasp.certificate_service.watching.replica import ReplicaLease
from handclasp.errors import Unauthenticated, Unavailable
from tests.unit.certificate_service.records import put_certificate, put_profile, put_user
from tests.unit.certificate_service.watching.clock import SettableLeaseClock
from tests.unit.x509.refusals import NOW

LEASE = 2.0
PROCESS = "0123456789abcdef"


class Stage:
    """A watch of a relying party that has been let in, and the feed that it watches."""

    def __init__(self, database: Database) -> None:
        self.clock = SettableLeaseClock()
        self.feed = ChangeFeed(database)
        self.leases = Leases(self.clock, maximum=10)
        self.replica = ReplicaLease(database, self.feed, self.leases, self.clock, seconds=LEASE, alone=False)
        self.facts = FactsReader(database)
        denials = DenialLog(database, DenialLimits(), now)
        self.watching = WatchAuthorization(
            WatchParts(
                feed=self.feed,
                leases=self.leases,
                replica=self.replica,
                limits=WatchLimits(LEASE, 0.5),
                facts=self.facts,
                authenticator=Authenticator(self.facts, None, denials, now),  # type: ignore[arg-type]  # no passwords here
                access=Access(denials, protect_administrators=True),
                clock=now,
                lease_clock=self.clock,
            )
        )

    def watch(self, caller: Caller, applied: Position | None = None) -> Watch:
        return self.watching.open(caller, PROCESS, applied)

    def publish(self, *names: str, effect: Effect = Effect.WITHDRAWN) -> int:
        number = self.feed.head.revision + 1
        self.feed.committed(Revision(Position(number, number), tuple(Change(name, effect) for name in names)))
        return number


def now() -> datetime:
    return NOW


@pytest_asyncio.fixture
async def caller(database: Database) -> Caller:
    """A relying party on file."""
    grant = Grant(Permission.AUTHORIZE_PEERS)
    await put_profile(database, "relying-party", grant)
    await put_user(database, "rp", "relying-party")
    own = await put_certificate(database, "rp", "a leaf")
    facts = UserFacts("rp", active=True, grants=(ProfileGrant("relying-party", grant),))
    return Caller(facts, own.id, own.fingerprint)


@pytest_asyncio.fixture
async def stage(database: Database) -> AsyncIterator[Stage]:
    stage = Stage(database)
    await stage.feed.open()
    await stage.replica.register()
    yield stage
    await stage.facts.close()
    await stage.feed.close()


async def begun(messages: AsyncIterator[Message]) -> None:
    assert isinstance(await anext(messages), Welcome)
    assert isinstance(await anext(messages), Reset)


async def test_a_change_that_is_due_comes_before_the_pong(stage: Stage, caller: Caller) -> None:
    """Rule 3, whether it was published before the ping came in or just after."""
    with stage.watch(caller) as watch:
        messages = watch.messages()
        await begun(messages)
        before = stage.publish("certificates/a")
        watch.ping(1, 0)
        after = stage.publish("certificates/b")
        changes, pong = await anext(messages), await anext(messages)
    assert (before, after) == (1, 2)
    assert isinstance(changes, Changes)
    assert changes.position.revision == after
    assert pong == Pong(1, after, LEASE)


async def test_a_pong_names_no_revision_that_was_not_said(stage: Stage, caller: Caller) -> None:
    """Something is published while the changes before it are being written."""
    with stage.watch(caller) as watch:
        messages = watch.messages()
        await begun(messages)
        stage.publish("certificates/a")
        watch.ping(1, 0)
        changes = await anext(messages)
        stage.publish("certificates/b")
        pong = await anext(messages)
        assert isinstance(changes, Changes)
        assert pong == Pong(1, changes.position.revision, LEASE)
        later = await anext(messages)
        assert isinstance(later, Changes)
        assert later.position.revision == 2


async def test_a_lease_is_recorded_before_it_is_granted(stage: Stage, caller: Caller) -> None:
    """Whoever publishes between the ping and its pong waits for that lease."""
    with stage.watch(caller) as watch:
        messages = watch.messages()
        await begun(messages)
        watch.ping(1, 0)
        assert watch._holder.lease_until >= stage.clock() + LEASE


async def test_it_is_registered_before_the_head_is_read(stage: Stage, caller: Caller) -> None:
    """Rule 9: what is published once it is there is said, even while its right is still being looked at."""
    with stage.watch(caller) as watch:
        messages = watch.messages()
        stage.publish("certificates/a")
        welcome, reset, changes = await anext(messages), await anext(messages), await anext(messages)
    assert isinstance(welcome, Welcome)
    assert isinstance(reset, Reset)
    assert isinstance(changes, Changes)
    assert (reset.position.revision, changes.position.revision) == (0, 1)


async def test_no_lease_outlasts_the_one_on_the_database(stage: Stage, caller: Caller) -> None:
    """Rule 18."""
    with stage.watch(caller) as watch:
        messages = watch.messages()
        await begun(messages)
        stage.clock.now += 0.75 * LEASE
        watch.ping(1, 0)
        pong = await anext(messages)
        assert isinstance(pong, Pong)
        assert stage.clock() + pong.lease <= stage.replica.certain_until
        stage.clock.now += LEASE
        watch.ping(2, 0)
        stage.publish("certificates/a")
        assert isinstance(await anext(messages), Changes)
        watch.end()
        assert [message async for message in messages] == [], "the second ping is not answered"


async def test_a_pong_is_granted_under_the_lease_that_was_certain_when_the_changes_were_read(
    stage: Stage, caller: Caller
) -> None:
    """Rule 19: a renewal that comes in while changes are written vouches for later ones."""
    with stage.watch(caller) as watch:
        messages = watch.messages()
        await begun(messages)
        certain_until = stage.replica.certain_until
        stage.clock.now += LEASE / 4
        stage.publish("certificates/a")
        watch.ping(1, 0)
        assert isinstance(await anext(messages), Changes)
        received = stage.clock()
        stage.clock.now += LEASE / 2
        stage.replica._certain_until = stage.clock() + LEASE
        pong = await anext(messages)
        assert isinstance(pong, Pong)
        assert received + pong.lease <= certain_until


async def test_many_changes_come_in_few_messages_of_a_bounded_size(stage: Stage, caller: Caller) -> None:
    with stage.watch(caller) as watch:
        messages = watch.messages()
        await begun(messages)
        for number in range(5_000):
            stage.publish(f"certificates/{number}")
        watch.ping(1, 0)
        received: list[Message] = []
        while not isinstance(message := await anext(messages), Pong):
            received.append(message)
        assert [message.position.revision for message in received if isinstance(message, Changes)] == [
            1_000,
            2_000,
            3_000,
            4_000,
            5_000,
        ]


async def test_one_that_does_not_keep_up_begins_anew(stage: Stage, caller: Caller) -> None:
    with stage.watch(caller) as watch:
        messages = watch.messages()
        await begun(messages)
        for number in range(10_001):
            stage.publish(f"certificates/{number}")
        assert await anext(messages) == Reset(stage.feed.head, history_lost=False)


async def test_a_right_that_is_taken_away_while_it_is_looked_at_gives_no_lease(
    stage: Stage, caller: Caller, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even if the relying party begins anew just then, for which changes are not gone through."""
    with stage.watch(caller) as watch:
        messages = watch.messages()
        await begun(messages)
        for number in range(10_001):
            stage.publish(f"certificates/{number}")
        revoke_after_the_next_look(stage, caller, database, monkeypatch)
        assert isinstance(await anext(messages), Reset)
        watch.ping(1, stage.feed.head.revision)
        with pytest.raises(Unauthenticated):
            await anext(messages)


async def test_nor_at_the_beginning_of_a_watch(
    stage: Stage, caller: Caller, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one that comes with a position that is not known here, and of another history."""
    revoke_after_the_next_look(stage, caller, database, monkeypatch)
    with stage.watch(caller, Position(7, 12345)) as watch:
        messages = watch.messages()
        await begun(messages)
        watch.ping(1, stage.feed.head.revision)
        with pytest.raises(Unauthenticated):
            await anext(messages)


def revoke_after_the_next_look(
    stage: Stage, caller: Caller, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Has the relying party's certificate be revoked right after its right was looked at the next time."""
    authenticator = stage.watching._parts.authenticator
    authenticate = authenticator.authenticate

    async def revoke(transaction: Transaction) -> None:
        await revoke_certificate(
            transaction, caller.certificate_id, Revocation(NOW, RevocationReason.UNSPECIFIED, "admin")
        )
        transaction.touch(f"certificates/{caller.certificate_id}", Effect.WITHDRAWN)

    async def look(**arguments: Any) -> Caller:
        monkeypatch.setattr(authenticator, "authenticate", authenticate)
        found = await authenticate(**arguments)
        await database.write(revoke)
        stage.publish(f"certificates/{caller.certificate_id}")
        return found

    monkeypatch.setattr(authenticator, "authenticate", look)


async def test_a_position_that_another_process_gave_out_is_caught_up_with(
    stage: Stage, caller: Caller, database: Database
) -> None:
    """This one has not heard of the change yet; that is no lost history, and the lease goes on."""
    other = Stage(database)
    await other.feed.open()

    async def change(transaction: Transaction) -> None:
        transaction.touch("certificates/a", Effect.GIVEN)

    await database.write(change)
    await other.feed.look()
    applied = other.feed.head
    assert applied.revision > stage.feed.head.revision
    with stage.watch(caller, applied) as watch:
        messages = watch.messages()
        assert isinstance(await anext(messages), Welcome)
        watch.ping(1, applied.revision)
        pong = await anext(messages)
    assert isinstance(pong, Pong)
    assert pong.revision == applied.revision
    await other.facts.close()
    await other.feed.close()


async def test_what_was_applied_before_a_reset_acknowledges_nothing(stage: Stage, caller: Caller) -> None:
    """It may be of another history: only what it says after the reset counts."""
    for number in range(3):
        stage.publish(f"certificates/{number}")
    with stage.watch(caller, Position(2, 12345)) as watch:
        messages = watch.messages()
        assert isinstance(await anext(messages), Welcome)
        assert isinstance(await anext(messages), Reset)
        watch.ping(1, 2)
        assert stage.leases.settled_up_to(3) == 0
        watch.acknowledge(3)
        assert stage.leases.settled_up_to(3) == 3


@pytest.mark.parametrize("applied", [3, 5])
async def test_nor_does_what_is_of_a_history_that_had_no_fewer_revisions(
    stage: Stage, caller: Caller, database: Database, applied: int
) -> None:
    """It is not cut to the revisions that there are: the relying party has none of them, and may not know of it yet."""
    for number in range(3):
        await database.write(partial(_touch, f"certificates/{number}"))
    await stage.feed.look()
    with stage.watch(caller, Position(applied, 12345)) as watch:
        messages = watch.messages()
        assert isinstance(await anext(messages), Welcome)
        watch.ping(1, applied)
        watch.acknowledge(applied)
        assert stage.leases.settled_up_to(3) == 0
        assert isinstance(await anext(messages), Reset)
        watch.ping(2, applied)
        assert stage.leases.settled_up_to(3) == 0
        for number in range(3, 6):
            await database.write(partial(_touch, f"certificates/{number}"))
        await stage.feed.look()
        assert isinstance(await anext(messages), Changes)
        watch.acknowledge(6)
        assert stage.leases.settled_up_to(6) == 6


async def _touch(name: str, transaction: Transaction) -> None:
    transaction.touch(name, Effect.WITHDRAWN)


async def test_a_watch_ends_when_the_history_has_parted_from_what_it_said(
    stage: Stage, caller: Caller, database: Database
) -> None:
    """And no lease is granted on it, nor is anything acknowledged."""
    stage.feed.on_parted(stage.leases.begin_anew)
    with stage.watch(caller) as watch:
        messages = watch.messages()
        await begun(messages)
        for number in range(3):
            stage.publish(f"certificates/{number}")
        await anext(messages)
        watch.ping(1, 3)
        assert isinstance(await anext(messages), Pong)
        stage.feed.in_doubt()
        with pytest.raises(Unavailable):
            await anext(messages)
        watch.ping(2, 3)
        watch.acknowledge(3)
        assert stage.feed.head == await database.history_head()
        assert stage.leases.settled_up_to(3) == 0
