"""Several certificate services on one PostgreSQL that others can reach, too, and that can lose what it knew."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import psycopg
import pytest
import pytest_asyncio
from sqlalchemy import make_url

from tests.rpc.certificate_harness import why
from tests.rpc.test_replicas import Both, fresh
from tests.rpc.test_watch import revoke
from tests.support.installation import Installation, running_installation, share_keys
from tests.support.postgres import PostgresServer
from tests.support.raw_watcher import watching, watching_from_now

pytestmark = pytest.mark.asyncio(loop_scope="module")

LEASE = 0.9


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def both(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Both]:
    """Two services, with the same keys."""
    folders = [tmp_path_factory.mktemp(f"attacked-{number}") for number in (1, 2)]
    with postgres.database() as url:
        settings = {"lease": LEASE, "ping_interval": 0.1}
        async with running_installation(folders[0], url, **settings) as first:
            share_keys(*(folder / "data" for folder in folders))
            async with running_installation(folders[1], url, **settings) as second:
                yield first, second


def outside(installation: Installation) -> psycopg.Connection:
    """A connection of somebody else's to the same database."""
    url = make_url(installation.settings.url()).set(drivername="postgresql")
    return psycopg.connect(url.render_as_string(hide_password=False), autocommit=True)


@pytest.mark.parametrize("channel", ["revisions", "barrier", "settled"])
async def test_notifications_that_make_no_sense_do_no_harm(both: Both, channel: str) -> None:
    first, second = both
    with outside(first) as stranger:
        for text in (
            "",
            "x" * 7_900,
            "9" * 5_000,
            "-1",
            "9" * 30,
            "1:2",
            ":::",
            "a:1:1:1",
            f"a:{'9' * 5_000}:1:1",
            "٣",
        ):
            stranger.execute("SELECT pg_notify(%s, %s)", (f"handclasp_{channel}", text))
    await asyncio.sleep(0.2)
    identity = await fresh(first)
    assert await why(second, identity.der) == "ALLOWED"
    async with watching_from_now(second) as watcher:
        await watcher.lease()
        busy = [watcher.obeying(), watcher.pinging()]
        said = await revoke(first, identity.name)
        for task in busy:
            task.cancel()
    assert said["acknowledged"] >= 1


async def test_nobody_else_can_say_that_a_revision_is_settled(both: Both) -> None:
    """Whoever may connect to the database may notify, and listen."""
    first, second = both
    await asyncio.sleep(1.1 * LEASE)
    identity = await fresh(first)
    with outside(first) as stranger:
        ids = [row[0] for row in stranger.execute("SELECT id FROM replicas")]
        async with watching_from_now(second) as watcher:
            await watcher.lease()
            for one in ids:
                stranger.execute("SELECT pg_notify('handclasp_settled', %s)", (f"{one}:{2**40}:1:0",))
            await asyncio.sleep(0.2)
            begin = time.monotonic()
            await revoke(first, identity.name)
            assert time.monotonic() - begin > LEASE / 3


@pytest.mark.parametrize(("watched", "others"), [(0, 0), (1, 0), (0, 3), (1, 8)])
async def test_after_the_history_went_back_a_taking_away_reaches_all(both: Both, watched: int, others: int) -> None:
    """A standby that had not got the last five commits takes over, while both run, and some commits are made there."""
    first, _ = both
    await asyncio.sleep(1.1 * LEASE)
    identity = await fresh(first)
    with outside(first) as stranger:
        (head,) = stranger.execute("SELECT revision, mark FROM revision_head").fetchall()
        for _ in range(5):
            await fresh(first)
        async with watching_from_now(both[watched]) as watcher:
            await watcher.lease()
            # One that had not heard of them yet would have nothing to take back.
            while watcher.position.revision < head[0] + 5:
                await watcher.receive()
            with stranger.transaction():
                stranger.execute("DELETE FROM revisions WHERE revision > %s", (head[0],))
                for number in range(1, others + 1):
                    added = head[0] + number, number
                    stranger.execute("INSERT INTO revisions (revision, mark, changes) VALUES (%s, %s, '[]')", added)
                stranger.execute(
                    "UPDATE revision_head SET revision = %s, mark = %s",
                    (head[0] + others, others or head[1]),
                )
            begin = time.monotonic()
            await revoke(first, identity.name)
            assert time.monotonic() - begin > LEASE / 3
            await watcher.end()
        async with watching(both[watched], process_id=watcher.process_id, applied=watcher.position) as again:
            await again.expect("welcome")
            assert (await again.expect("reset")).history_lost == (others < 5)
