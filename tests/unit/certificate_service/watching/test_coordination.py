"""The parts of two processes on one PostgreSQL, wired as the service wires them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import pytest_asyncio

from handclasp.certificate_service.domain.changes import Effect
from handclasp.certificate_service.storage.database import Database, Transaction, open_database
from handclasp.certificate_service.storage.migrate import migrate
from handclasp.certificate_service.storage.replicas import other_replicas
from handclasp.certificate_service.watching.coordination import Coordination, coordinate
from handclasp.serving.clock import lease_clock
from tests.support.postgres import PostgresServer


async def touch_anchor(transaction: Transaction) -> None:
    transaction.touch("trustAnchors/a", Effect.GIVEN)


async def at_once() -> None:
    """Listeners that heed the bundle without delay."""


@asynccontextmanager
async def coordinated(
    url: str, reload: Callable[[], Awaitable[None]], *, lease: float, notifications: bool
) -> AsyncIterator[tuple[Database, Coordination]]:
    """A process that is registered; nothing runs in the background yet."""
    async with AsyncExitStack() as stack:
        database = open_database(url)
        stack.push_async_callback(database.close)
        made = await coordinate(
            database,
            url=url,
            lease=lease,
            maximum_watchers=10,
            maximum_watchers_per_user=10,
            notifications=notifications,
            secret=b"a secret of the test",
            reload_anchors=reload,
            clock=lease_clock,
        )
        stack.push_async_callback(made.close)
        await made.replica.register()
        yield database, made


@asynccontextmanager
async def running(*made: Coordination) -> AsyncIterator[None]:
    """Both do what they do in the background; those that listen, do so by now."""
    connected: list[asyncio.Event] = []
    for one in made:
        if one.listener is not None:
            connected.append(asyncio.Event())
            one.listener.on_connected(connected[-1].set)
    tasks = [asyncio.create_task(work) for one in made for work in one.background().values()]
    try:
        for event in connected:
            await event.wait()
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest_asyncio.fixture
async def url(postgres: PostgresServer) -> AsyncIterator[str]:
    with postgres.database() as made:
        database = open_database(made)
        await migrate(database)
        await database.close()
        yield made


async def test_who_begins_to_listen_reads_what_was_said_before(url: str) -> None:
    """Long before it renews its lease."""
    async with (
        coordinated(url, at_once, lease=600, notifications=True) as (_, late),
        coordinated(url, at_once, lease=600, notifications=True) as (other, _),
    ):
        _, position = await other.write_at_position(touch_anchor)
        read = asyncio.Event()
        late.feed.watch(read.set)
        async with running(late), asyncio.timeout(20):
            await read.wait()
        assert late.feed.holds(position)


@pytest.mark.parametrize("notifications", [True, False], ids=["hearing", "deaf"])
async def test_an_anchor_is_in_force_once_the_listeners_of_others_heed_it(url: str, notifications: bool) -> None:
    """Whether they say so, or their row does."""
    # What is said is heard long before a renewal, and what a row says long before the lease is over.
    lease = 600.0 if notifications else 8.0
    gate, reloading = asyncio.Event(), asyncio.Event()

    async def held_up() -> None:
        reloading.set()
        await gate.wait()

    async def renewals(database: Database, replica: str) -> int:
        found = await database.query(lambda snapshot: other_replicas(snapshot, ""))
        return next(one.renewals for one in found if one.id == replica)

    async with (
        coordinated(url, at_once, lease=lease, notifications=notifications) as (database, first),
        coordinated(url, held_up, lease=lease, notifications=notifications) as (_, second),
        running(first, second),
    ):
        async with asyncio.timeout(20):
            adding = asyncio.create_task(first.barrier.write(touch_anchor))
            await reloading.wait()
            # Once it is renewed with all that it has settled by now.
            enough = 0 if notifications else await renewals(database, second.replica.id) + 2
            while await renewals(database, second.replica.id) < enough:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
            await asyncio.sleep(0.3)
            assert not adding.done()
            gate.set()
            done = await adding
        assert done.settled.ended == 0
