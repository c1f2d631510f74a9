"""Locks on a PostgreSQL that several processes write to: none is held, or waited for, without an end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import psycopg
import pytest
import pytest_asyncio
from sqlalchemy import make_url, select
from sqlalchemy.exc import DBAPIError

from handclasp.certificate_service.domain.changes import Effect
from handclasp.certificate_service.storage import database as storage
from handclasp.certificate_service.storage.database import Database, Snapshot, Transaction, open_database
from handclasp.certificate_service.storage.facts import FactsReader
from handclasp.certificate_service.storage.migrate import migrate
from handclasp.certificate_service.storage.notifications import Seals
from handclasp.certificate_service.watching.feed import ChangeFeed
from handclasp.certificate_service.watching.leases import Leases
from handclasp.certificate_service.watching.others import OtherReplicas
from handclasp.certificate_service.watching.replica import ReplicaLease
from handclasp.serving.clock import lease_clock
from tests.support.postgres import PostgresServer
from tests.unit.certificate_service.records import put_certificate, put_user


@pytest.fixture
def url(postgres: PostgresServer) -> Iterator[str]:
    with postgres.database() as found:
        yield found


@pytest_asyncio.fixture
async def shared(url: str) -> AsyncIterator[Database]:
    opened = open_database(url)
    await migrate(opened)
    yield opened
    await opened.close()


@pytest.fixture
def stranger(url: str) -> Iterator[psycopg.Connection]:
    """A connection of somebody else's, with a transaction of its own."""
    plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain) as connection:
        yield connection


async def touch(transaction: Transaction) -> None:
    transaction.touch("users/a", Effect.WITHDRAWN)


async def test_a_process_that_is_frozen_in_a_transaction_does_not_keep_others_from_taking_away(
    shared: Database, url: str
) -> None:
    locked, thaw = asyncio.Event(), asyncio.Event()
    frozen = open_database(url)

    async def freeze(transaction: Transaction) -> None:
        await transaction.alone()
        locked.set()
        await thaw.wait()
        transaction.touch("users/b", Effect.WITHDRAWN)

    freezing = asyncio.create_task(frozen.write(freeze))
    await locked.wait()
    begin = time.monotonic()
    await asyncio.wait_for(shared.write(touch), 20)
    assert time.monotonic() - begin < 2 * storage.IDLE_SECONDS
    thaw.set()
    with pytest.raises(DBAPIError):
        await freezing
    assert (await shared.history_head()).revision == 1, "nothing of what it had begun is there"
    await frozen.write(touch)
    await frozen.close()


async def test_who_waits_for_a_lock_of_somebody_elses_is_told(
    shared: Database, stranger: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "LOCK_SECONDS", 0.3)
    stranger.execute("SELECT * FROM revision_head FOR UPDATE")
    answers = await asyncio.wait_for(
        asyncio.gather(*(shared.write(touch) for _ in range(3)), return_exceptions=True), 20
    )
    assert all(isinstance(answer, DBAPIError) for answer in answers), answers
    stranger.rollback()
    await shared.write(touch)


async def test_a_lease_is_renewed_while_changes_wait_for_a_lock(shared: Database, stranger: psycopg.Connection) -> None:
    """What is remembered goes on being allowed: nothing can have been taken away meanwhile."""
    feed = ChangeFeed(shared)
    await feed.open()
    leases = Leases(lease_clock, maximum=10)
    replica = ReplicaLease(shared, feed, leases, lease_clock, seconds=2.0, alone=False)
    await replica.register()
    stranger.execute("SELECT * FROM revision_head FOR UPDATE")
    waiting = asyncio.create_task(shared.write(touch))
    await asyncio.sleep(0.1)
    before = replica.certain_until
    await asyncio.wait_for(replica._renew(), 5)
    assert replica.certain_until > before
    assert not waiting.done()
    stranger.rollback()
    await waiting
    await feed.close()


async def test_connections_to_a_server_that_was_read_only_are_given_up(
    shared: Database, stranger: psycopg.Connection
) -> None:
    """A database that is set so, for a while: its sessions stay so for as long as they last."""
    stranger.autocommit = True
    name = stranger.info.dbname
    stranger.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    stranger.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()", (name,)
    )
    with pytest.raises(DBAPIError):
        await shared.write(touch)
    stranger.execute(f'ALTER DATABASE "{name}" RESET default_transaction_read_only')
    for _ in range(10):
        await shared.write(touch)


async def test_connections_that_the_server_closed_fail_nobody(shared: Database, stranger: psycopg.Connection) -> None:
    """As after its restart, with nobody calling meanwhile."""
    facts = FactsReader(shared)
    await put_user(shared, "alice")
    record = await put_certificate(shared, "alice", "leaf")
    for _ in range(2):
        assert await facts.peer(record.fingerprint) is not None
        assert await facts.user("alice") is not None
        await shared.write(touch)
        await shared.history_head()
        stranger.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    await facts.close()


async def test_a_server_that_vanished_is_noticed_while_it_owes_an_answer(shared: Database) -> None:
    """Not in two hours, which is what the kernel takes if nothing is said: over TCP, which tests have no way to cut."""
    async with shared.writer.connect() as connection:
        raw = await connection.get_raw_connection()
        assert raw.driver_connection is not None
        found = raw.driver_connection.info.get_parameters()
    assert int(found["keepalives_idle"]) + int(found["keepalives_interval"]) * int(found["keepalives_count"]) < 10
    assert int(found["tcp_user_timeout"]) <= 10_000


async def test_however_many_calls_read_the_lease_is_renewed_and_changes_are_committed(shared: Database) -> None:
    """Else whoever may list things could have every relying party answer UNAVAILABLE."""
    feed = ChangeFeed(shared)
    await feed.open()
    replica = ReplicaLease(shared, feed, Leases(lease_clock, maximum=10), lease_clock, seconds=2.0, alone=False)
    await replica.register()
    others = OtherReplicas(shared, replica, lease_clock, Seals(b"secret"))
    facts = FactsReader(shared)
    begun = asyncio.Semaphore(0)
    done = asyncio.Event()

    async def read_long(snapshot: Snapshot) -> None:
        await snapshot.fetch(select(1))
        begun.release()
        await done.wait()

    reading = [asyncio.create_task(read(read_long)) for read in 10 * [shared.read, shared.query]]
    for _ in range(4):
        await begun.acquire()
    await asyncio.sleep(0.1)
    before = replica.certain_until
    await replica._renew()
    await shared.write(touch)
    assert await others.look() == []
    assert await facts.user("nobody") is None
    assert await facts.peer("nobody's") is None
    assert replica.certain_until > before
    assert not any(task.done() for task in reading)
    done.set()
    await asyncio.gather(*reading)
    await facts.close()
    await feed.close()
