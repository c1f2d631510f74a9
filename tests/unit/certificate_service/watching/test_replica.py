"""A process's lease on the database, and how others wait for it to run out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from handclasp.certificate_service.domain.changes import Effect, Position, Revision
from handclasp.certificate_service.storage.database import Database, Snapshot, Transaction
from handclasp.certificate_service.storage.notifications import Seals
from handclasp.certificate_service.storage.replicas import add_replica, forget_replicas, other_replicas
from handclasp.certificate_service.watching.feed import ChangeFeed
from handclasp.certificate_service.watching.leases import CLOCK_RATE_BOUND, Leases, Settled
from handclasp.certificate_service.watching.others import OtherReplicas
from handclasp.certificate_service.watching.replica import ReplicaLease
from tests.unit.certificate_service.watching.clock import SettableLeaseClock

LEASE = 2.0
SEALS = Seals(b"a secret of the test")


@pytest_asyncio.fixture
async def feed(database: Database) -> AsyncIterator[ChangeFeed]:
    feed = ChangeFeed(database)
    await feed.open()
    yield feed
    await feed.close()


def lease_of(database: Database, feed: ChangeFeed, clock: SettableLeaseClock, *, alone: bool) -> ReplicaLease:
    """Of a process that nobody watches."""
    return ReplicaLease(database, feed, Leases(clock, maximum=10), clock, seconds=LEASE, alone=alone)


async def rows(database: Database) -> list[str]:
    async def read(snapshot: Snapshot) -> list[str]:
        return [one.id for one in await other_replicas(snapshot, "")]

    return await database.read(read)


async def test_before_it_is_registered_nothing_may_be_granted(database: Database, feed: ChangeFeed) -> None:
    clock = SettableLeaseClock()
    replica = lease_of(database, feed, clock, alone=False)
    assert replica.certain_until < clock()
    await replica.register()
    assert replica.certain_until == clock() + LEASE
    assert await rows(database) == [replica.id]


async def test_what_a_process_that_is_gone_may_have_granted_is_waited_out(database: Database, feed: ChangeFeed) -> None:
    """Rule 13: a process that was killed has left its row."""
    clock = SettableLeaseClock()
    await lease_of(database, feed, clock, alone=True).register()
    successor = lease_of(database, feed, clock, alone=True)
    others = OtherReplicas(database, successor, clock, SEALS)
    await others.look()
    await successor.register()
    settling = asyncio.create_task(others.settle(Position(1, 1)))
    await asyncio.sleep(0.1)
    assert not settling.done()
    clock.now += LEASE + 0.1
    await settling
    assert await rows(database) == [successor.id], "and then it is forgotten"
    await others.settle(Position(2, 2))


async def test_waiting_for_a_process_that_is_gone_is_no_fault(database: Database, feed: ChangeFeed) -> None:
    """On SQLite there is no NOTIFY to ask it by."""
    clock = SettableLeaseClock()
    await lease_of(database, feed, clock, alone=True).register()
    others = OtherReplicas(database, lease_of(database, feed, clock, alone=True), clock, SEALS)
    with capture_logs() as logs:
        await others.look()
        clock.now += LEASE + 0.1
        await others.settle(Position(1, 1))
    assert [entry["event"] for entry in logs] == ["replica_gone"]


async def test_the_wait_counts_from_when_the_row_was_seen_first(database: Database, feed: ChangeFeed) -> None:
    clock = SettableLeaseClock()
    await lease_of(database, feed, clock, alone=True).register()
    others = OtherReplicas(database, lease_of(database, feed, clock, alone=True), clock, SEALS)
    await others.look()
    clock.now += LEASE + 0.1
    await asyncio.wait_for(others.settle(Position(1, 1)), 10)


async def test_only_leases_that_ran_out_meanwhile_are_counted(database: Database, feed: ChangeFeed) -> None:
    """After a restart of all replicas one by one, their relying parties are with others, and held up nobody."""
    clock = SettableLeaseClock()

    async def stopped() -> None:
        leases = Leases(clock, maximum=10)
        leases.grant(leases.enter(("a", "process")), clock(), LEASE)
        replica = ReplicaLease(database, feed, leases, clock, seconds=LEASE, alone=False)
        await replica.register()
        await replica._renew()

    await stopped()
    others = OtherReplicas(database, lease_of(database, feed, clock, alone=False), clock, SEALS)
    await others.look()
    clock.now += LEASE + 0.1
    await stopped()
    settling = asyncio.create_task(others.settle(Position(1, 1)))
    await asyncio.sleep(0.1)
    assert not settling.done()
    clock.now += LEASE + 0.1
    assert await settling == Settled(ended=1)
    assert await rows(database) == []


async def test_others_wait_longer_than_the_clocks_can_differ(database: Database, feed: ChangeFeed) -> None:
    """Rule 18, at its edge."""
    clock = SettableLeaseClock()
    await lease_of(database, feed, clock, alone=True).register()
    others = OtherReplicas(database, lease_of(database, feed, clock, alone=True), clock, SEALS)
    await others.look()
    clock.now += LEASE * (1 + CLOCK_RATE_BOUND) - 0.001
    settling = asyncio.create_task(others.settle(Position(1, 1)))
    await asyncio.sleep(0.2)
    assert not settling.done()
    clock.now += 0.002
    await asyncio.wait_for(settling, 10)


async def test_once_histories_have_parted_rows_count_as_seen_from_then_on(database: Database, feed: ChangeFeed) -> None:
    """What looks like a renewal that was seen long ago may be a later one of the other history."""
    clock = SettableLeaseClock()
    await lease_of(database, feed, clock, alone=True).register()
    others = OtherReplicas(database, lease_of(database, feed, clock, alone=True), clock, SEALS)
    await others.look()
    clock.now += LEASE + 0.1
    others.begin_anew()
    settling = asyncio.create_task(others.settle(Position(1, 1)))
    await asyncio.sleep(0.2)
    assert not settling.done()
    clock.now += LEASE + 0.1
    await asyncio.wait_for(settling, 10)


async def test_a_row_that_was_renewed_since_it_was_read_is_not_deleted(database: Database, feed: ChangeFeed) -> None:
    """Rule 21: a process that thaws at the last moment."""
    clock = SettableLeaseClock()
    thawed = lease_of(database, feed, clock, alone=False)
    await thawed.register()
    (read,) = await database.query(lambda snapshot: other_replicas(snapshot, ""))
    await thawed._renew()
    await database.write(lambda transaction: forget_replicas(transaction, [read]))
    assert await rows(database) == [thawed.id]
    (read,) = await database.query(lambda snapshot: other_replicas(snapshot, ""))
    await database.write(lambda transaction: forget_replicas(transaction, [read]))
    assert await rows(database) == []


async def test_rows_that_another_barrier_forgets_meanwhile_are_no_fault(
    database: Database, feed: ChangeFeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two rows that crashes left; while one barrier deletes the first, another deletes both, and a third one looks."""
    clock = SettableLeaseClock()
    for _ in range(2):
        await lease_of(database, feed, clock, alone=True).register()
    others = OtherReplicas(database, lease_of(database, feed, clock, alone=True), clock, SEALS)
    await others.look()
    clock.now += LEASE + 0.1
    write = database.write
    first = True

    async def held_up(work: Callable[[Transaction], Awaitable[Any]]) -> Any:
        nonlocal first
        done = await write(work)
        if first:
            first = False
            await others.settle(Position(2, 2))
            await others.look()
        return done

    monkeypatch.setattr(database, "write", held_up)
    await others.settle(Position(1, 1))
    assert await rows(database) == []


async def test_one_that_renews_and_never_acknowledges_is_waited_for_once(database: Database, feed: ChangeFeed) -> None:
    """Rule 20 and the like of rule 10: whoever renews reads a head that includes the revision."""
    clock = SettableLeaseClock()
    neighbour = lease_of(database, feed, clock, alone=False)
    await neighbour.register()
    others = OtherReplicas(database, lease_of(database, feed, clock, alone=False), clock, SEALS)
    settling = asyncio.create_task(others.settle(Position(1, 1)))
    for _ in range(4):
        await asyncio.sleep(0.1)
        clock.now += LEASE / 2
        await neighbour._renew()
    await settling
    assert await rows(database) == [neighbour.id], "it lives, and stays"


async def test_a_lease_counts_from_before_its_renewal(database: Database, feed: ChangeFeed) -> None:
    """Rule 18: however long the transaction takes."""
    clock = SettableLeaseClock()
    replica = lease_of(database, feed, clock, alone=False)
    await replica.register()
    began = clock()

    async def slowly() -> None:
        clock.now += 1.5

    renewing = asyncio.gather(replica._renew(), slowly())
    await renewing
    assert replica.certain_until == began + LEASE


async def test_after_each_renewal_it_has_caught_up(database: Database, feed: ChangeFeed) -> None:
    """Rule 19: also with what nobody told of."""
    clock = SettableLeaseClock()
    replica = lease_of(database, feed, clock, alone=False)
    await replica.register()

    async def touch(transaction: Transaction) -> None:
        transaction.touch("users/a", Effect.WITHDRAWN)

    _, position = await database.write_at_position(touch)
    assert feed.head.revision < position.revision
    await replica._renew()
    assert feed.head == position


async def test_until_it_has_caught_up_its_lease_is_no_longer_than_before(
    database: Database, feed: ChangeFeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rule 19: what is granted meanwhile may be for one who has not been told of the newest revision."""
    clock = SettableLeaseClock()
    replica = lease_of(database, feed, clock, alone=False)
    read_head, looking, may_look = database.history_head, asyncio.Event(), asyncio.Event()

    async def held_up() -> Position:
        looking.set()
        await may_look.wait()
        return await read_head()

    monkeypatch.setattr(database, "history_head", held_up)
    for step in (replica.register, replica._renew):
        looking.clear()
        may_look.clear()
        before = replica.certain_until
        stepping = asyncio.create_task(step())
        await looking.wait()
        assert replica.certain_until == before
        may_look.set()
        await stepping
        assert replica.certain_until == clock() + LEASE
        clock.now += LEASE / 4


async def test_one_that_was_given_up_comes_back_under_another_id(database: Database, feed: ChangeFeed) -> None:
    """Rule 21: a process that was frozen, and thaws."""
    clock = SettableLeaseClock()
    frozen = lease_of(database, feed, clock, alone=False)
    await frozen.register()
    before = frozen.id
    others = OtherReplicas(database, lease_of(database, feed, clock, alone=False), clock, SEALS)
    await others.look()
    clock.now += LEASE + 0.1
    await others.settle(Position(1, 1))
    assert await rows(database) == []
    await frozen._renew()
    assert frozen.id != before
    assert await rows(database) == [frozen.id]


async def test_a_process_acknowledges_nothing_of_a_history_that_the_database_does_not_have(
    database: Database, feed: ChangeFeed
) -> None:
    """The database went back, and is as far again: its row's number would pass for that of the other history."""
    clock = SettableLeaseClock()
    replica = lease_of(database, feed, clock, alone=False)
    await replica.register()
    for number in range(3):
        feed.committed(Revision(Position(number + 1, number + 1), ()))

    async def touch(transaction: Transaction) -> None:
        transaction.touch("users/a", Effect.WITHDRAWN)

    for _ in range(3):
        await database.write(touch)
    before = replica.id
    await replica._renew()
    found = await database.read(lambda snapshot: other_replicas(snapshot, ""))
    assert {one.id: one.acknowledged for one in found} == {before: 0, replica.id: 0}
    assert replica.id != before
    assert feed.head == await database.history_head()


async def test_a_renewal_shows_that_the_database_went_back_although_nothing_was_committed_since(
    database: Database, feed: ChangeFeed
) -> None:
    """The head that is read is one that was published long ago."""
    clock = SettableLeaseClock()
    replica = lease_of(database, feed, clock, alone=False)

    async def touch(transaction: Transaction) -> None:
        transaction.touch("users/a", Effect.WITHDRAWN)

    _, kept = await database.write_at_position(touch)
    await replica.register()
    feed.committed(Revision(Position(kept.revision + 1, 1), ()))
    parted: list[Position] = []
    feed.on_parted(lambda: parted.append(feed.head))
    await replica._renew()
    assert parted == [kept]
    registered = replica.id
    await replica._renew()
    assert replica.id == registered, "it is of the same history again, and need not register once more"


async def test_after_the_database_went_back_a_lease_is_waited_for_that_has_no_row(
    database: Database, feed: ChangeFeed
) -> None:
    clock = SettableLeaseClock()
    others = OtherReplicas(database, lease_of(database, feed, clock, alone=False), clock, SEALS)
    others.begin_anew()
    settling = asyncio.create_task(others.settle(Position(1, 1)))
    clock.now += LEASE - 0.3
    await asyncio.sleep(0.1)
    assert not settling.done()
    clock.now += 0.4
    await asyncio.wait_for(settling, 10)


async def test_however_many_rows_crashes_have_left_they_go_in_one_transaction(
    database: Database, feed: ChangeFeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that could not start has left one each time. Whoever takes away does not wait for each."""
    clock = SettableLeaseClock()

    async def leave(transaction: Transaction) -> None:
        for number in range(500):
            await add_replica(transaction, f"gone-{number}", lease=LEASE, acknowledged=0)

    await database.write(leave)
    others = OtherReplicas(database, lease_of(database, feed, clock, alone=False), clock, SEALS)
    await others.look()
    clock.now += LEASE + 0.1
    write, writes = database.write, 0

    async def counted(work: Callable[[Transaction], Awaitable[Any]]) -> Any:
        nonlocal writes
        writes += 1
        return await write(work)

    monkeypatch.setattr(database, "write", counted)
    await others.settle(Position(1, 1))
    assert await rows(database) == []
    assert writes == 1


async def test_rows_that_are_over_go_also_if_nobody_takes_anything_away(database: Database, feed: ChangeFeed) -> None:
    clock = SettableLeaseClock()
    lives = lease_of(database, feed, clock, alone=False)
    await lives.register()
    await lease_of(database, feed, clock, alone=False).register()
    others = OtherReplicas(database, lease_of(database, feed, clock, alone=False), clock, SEALS)
    await others.forget()
    assert len(await rows(database)) == 2, "seen just now for the first time"
    clock.now += LEASE + 0.1
    await lives._renew()
    await others.forget()
    assert await rows(database) == [lives.id]


async def test_two_who_wait_for_the_same_revision_are_both_answered(database: Database, feed: ChangeFeed) -> None:
    """And neither takes the other one's answers for its own."""
    clock = SettableLeaseClock()
    neighbours = [lease_of(database, feed, clock, alone=False) for _ in range(2)]
    for neighbour in neighbours:
        await neighbour.register()
    others = OtherReplicas(database, lease_of(database, feed, clock, alone=False), clock, SEALS)
    first, second = (asyncio.create_task(others.settle(Position(7, 7))) for _ in range(2))
    await asyncio.sleep(0.2)
    first.cancel()
    await asyncio.wait({first})
    for neighbour in neighbours:
        others.heard(f"{neighbour.id}:7:8:1:0:0")
        others.heard(f"{neighbour.id}:8:7:1:0:0")
    await asyncio.sleep(0.1)
    assert not second.done()
    for neighbour in neighbours:
        others.heard(f"{neighbour.id}:7:7:1:0:0")
    assert await asyncio.wait_for(second, 10) == Settled(acknowledged=2)
    assert not others._waiting


async def test_a_row_that_is_gone_of_a_sudden_is_waited_for_all_the_same(database: Database, feed: ChangeFeed) -> None:
    """The database may have gone back to before it was there, with the change that is waited for."""
    clock = SettableLeaseClock()
    neighbour = lease_of(database, feed, clock, alone=False)
    await neighbour.register()
    others = OtherReplicas(database, lease_of(database, feed, clock, alone=False), clock, SEALS)
    (row,) = await others.look()
    settling = asyncio.create_task(others.settle(Position(1, 1)))
    await asyncio.sleep(0.1)
    await database.write(partial(forget_replicas, gone=[row]))
    await asyncio.sleep(0.2)
    assert not settling.done()
    clock.now += LEASE + 0.1
    await asyncio.wait_for(settling, 10)
