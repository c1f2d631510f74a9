"""A process that cannot write its row, on a disk that is full: what it may grant, and what it must leave there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

import pytest
import pytest_asyncio
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from handclasp.certificate_service.domain.changes import Position
from handclasp.certificate_service.storage.database import Database
from handclasp.certificate_service.storage.replicas import add_replica, other_replicas
from handclasp.certificate_service.watching import replica as replica_module
from handclasp.certificate_service.watching.feed import ChangeFeed
from handclasp.certificate_service.watching.leases import Leases, Settled
from handclasp.certificate_service.watching.others import OtherReplicas
from handclasp.certificate_service.watching.replica import ReplicaLease
from tests.unit.certificate_service.watching.clock import SettableLeaseClock
from tests.unit.certificate_service.watching.test_replica import LEASE, SEALS, lease_of, rows

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest_asyncio.fixture
async def feed(database: Database) -> AsyncIterator[ChangeFeed]:
    feed = ChangeFeed(database)
    await feed.open()
    yield feed
    await feed.close()


async def let_write(database: Database, *, allowed: bool) -> None:
    """By the one connection that writes."""
    async with database.writer.execution_options(handclasp_no_begin=True).connect() as connection:
        await connection.execute(text(f"PRAGMA query_only = {'OFF' if allowed else 'ON'}"))


async def until(condition: Callable[[], bool]) -> None:
    """Waits for something that a task does."""
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("not within ten seconds")


async def test_the_predecessors_row_stands_for_ones_own_until_that_can_be_written(
    database: Database, feed: ChangeFeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica_module, "_LOOK_SECONDS", 0.01)
    clock = SettableLeaseClock()
    predecessor = lease_of(database, feed, clock, alone=True)
    await predecessor.register()
    replica = lease_of(database, feed, clock, alone=True)
    others = OtherReplicas(database, replica, clock, SEALS)
    await others.look()
    await let_write(database, allowed=False)
    await replica.begin()
    assert replica.certain_until > clock()

    # What the predecessor granted is waited out all the same, and its row is still there afterwards (rule 13): even
    # if rows can be written by then, as long as this process's own was not.
    await let_write(database, allowed=True)
    settling = asyncio.create_task(others.settle(Position(1, 1)))
    await asyncio.sleep(0.1)
    assert not settling.done()
    clock.now += LEASE + 0.1
    assert await settling == Settled(ended=0)
    await others.forget()
    assert await rows(database) == [predecessor.id]

    running = asyncio.create_task(replica.run())
    await until(lambda: replica.id != "")
    assert database.writing.fault is None
    assert sorted(await rows(database)) == sorted([predecessor.id, replica.id])
    await others.forget()
    assert await rows(database) == [replica.id]
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


@pytest.mark.parametrize("shorter", [None, LEASE / 2])
async def test_without_a_row_of_such_a_lease_nothing_is_granted(
    database: Database, feed: ChangeFeed, shorter: float | None
) -> None:
    """Nobody who comes after this process would know how long to wait for what it granted."""
    clock = SettableLeaseClock()
    if shorter is not None:
        seconds = shorter
        await database.write(lambda transaction: add_replica(transaction, "before", lease=seconds, acknowledged=0))
    await let_write(database, allowed=False)
    replica = lease_of(database, feed, clock, alone=True)
    await replica.begin()
    assert replica.certain_until < clock()
    await let_write(database, allowed=True)
    await replica.register()
    assert replica.certain_until > clock()


async def test_where_others_serve_the_database_too_there_is_no_stand_in(database: Database, feed: ChangeFeed) -> None:
    """They would delete that row once its lease is over."""
    clock = SettableLeaseClock()
    await lease_of(database, feed, clock, alone=False).register()
    await let_write(database, allowed=False)
    replica = ReplicaLease(database, feed, Leases(clock, maximum=10), clock, seconds=LEASE, alone=False)
    with pytest.raises(SQLAlchemyError):
        await replica.begin()
    assert replica.certain_until < clock()


async def test_what_cannot_be_forgotten_does_not_undo_what_was_waited_for(database: Database, feed: ChangeFeed) -> None:
    clock = SettableLeaseClock()
    await lease_of(database, feed, clock, alone=True).register()
    replica = lease_of(database, feed, clock, alone=True)
    await replica.register()
    others = OtherReplicas(database, replica, clock, SEALS)
    await others.look()
    await let_write(database, allowed=False)
    settling = asyncio.create_task(others.settle(Position(1, 1)))
    await asyncio.sleep(0.1)
    clock.now += LEASE + 0.1
    await settling
    left = await database.read(lambda snapshot: other_replicas(snapshot, replica.id))
    assert len(left) == 1
