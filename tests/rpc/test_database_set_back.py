"""A database that knows less than it did, under services that run on: a standby took over that had not got the last
commits. Whatever was acknowledged before says nothing of what is taken away since."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from sqlalchemy import text

from handclasp.certificate_service.domain.changes import Effect
from handclasp.certificate_service.storage.database import Database, Transaction, open_database
from tests.rpc.certificate_harness import why
from tests.rpc.test_watch import revoke
from tests.support.installation import Installation, running_installation, share_keys
from tests.support.postgres import PostgresServer
from tests.support.raw_watcher import watching, watching_from_now

LEASE = 1.5
SETTINGS = {"lease": LEASE, "ping_interval": 0.1}


class Standby:
    """The database as it was when this was made; `take_over` sets its history back to that."""

    def __init__(self, database: Database, revision: int, mark: int) -> None:
        self._database = database
        self._revision = revision
        self._mark = mark

    @classmethod
    async def behind(cls, database: Database) -> Standby:
        head = await database.history_head()
        return cls(database, head.revision, head.mark)

    async def take_over(self, *, changes: int = 0) -> None:
        """Sets it back.

        Args:
            changes: how many others, who noticed at once, have made since.
        """
        at = {"revision": self._revision, "mark": self._mark}
        async with self._database.writer.begin() as connection:
            await connection.execute(text("DELETE FROM revisions WHERE revision > :revision"), at)
            await connection.execute(text("UPDATE revision_head SET revision = :revision, mark = :mark"), at)
            # Nor has it got the last renewals.
            await connection.execute(text("UPDATE replicas SET acknowledged = 0, renewals = renewals - 2"))

        async def touch(transaction: Transaction) -> None:
            transaction.touch("users/somebody", Effect.ALTERED)

        for _ in range(changes):
            await self._database.write(touch)


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Database]:
    database = open_database(url)
    try:
        yield database
    finally:
        await database.close()


async def change(installation: Installation, times: int) -> None:
    for _ in range(times):
        await installation.new_user("regular-user")
        await installation.issue("admin")


@pytest.mark.parametrize("changes", [0, 3, 8])
async def test_who_was_told_more_is_waited_for(changes: int, postgres: PostgresServer, tmp_path: Path) -> None:
    with postgres.database() as url:
        async with running_installation(tmp_path, url, **SETTINGS) as service, opened(url) as database:
            identity = await service.issue(await service.new_user("regular-user"))
            standby = await Standby.behind(database)
            await change(service, 5)
            async with watching_from_now(service) as watcher:
                await watcher.lease()
                began = time.monotonic()
                told = watcher.position
                await standby.take_over(changes=changes)
                ending = asyncio.create_task(watcher.end())
                said = await revoke(service, identity.name)
                assert said["leases-ended"] >= 1, "it has not been told, and may still act on what was so before"
                assert time.monotonic() - began > LEASE / 2
                assert await ending is grpc.StatusCode.UNAVAILABLE
            assert await why(service, identity.der) == "REVOKED"
            # And it comes back: what it was told is of another history.
            async with watching(service, process_id=watcher.process_id, applied=told) as again:
                await again.expect("welcome")
                reset = await again.expect("reset")
                assert reset.history_lost == (reset.position.revision < told.revision)
                await again.lease()
            assert "history_lost" in service.log.read_text()


@pytest.mark.parametrize("notifications", [True, False], ids=["hearing", "deaf"])
@pytest.mark.parametrize("changes", [0, 3, 8])
async def test_who_was_told_more_by_another_replica_is_waited_for(
    changes: int, notifications: bool, postgres: PostgresServer, tmp_path: Path
) -> None:
    """What that one acknowledged, by its row or by saying so, was of what the database does not know any more."""
    folders = [tmp_path / name for name in ("first", "second")]
    for folder in folders:
        folder.mkdir()
    settings = {**SETTINGS, "database_notifications": notifications}
    with postgres.database() as url:
        async with running_installation(folders[0], url, **settings) as first:
            share_keys(*(folder / "data" for folder in folders))
            async with running_installation(folders[1], url, **settings) as second, opened(url) as database:
                identity = await first.issue(await first.new_user("regular-user"))
                standby = await Standby.behind(database)
                await change(first, 5)
                async with watching_from_now(second) as watcher:
                    await watcher.lease()
                    began = time.monotonic()
                    await standby.take_over(changes=changes)
                    # Who was waited for is not always counted: the row that is waited out says how many it had before.
                    await revoke(first, identity.name)
                    assert time.monotonic() - began > LEASE / 2
                # Both have found their way, and nobody has to be waited for.
                async with watching_from_now(second) as watcher:
                    busy = [watcher.obeying(), watcher.pinging()]
                    await asyncio.sleep(1.1 * LEASE)
                    said = await revoke(first, (await first.issue("admin")).name)
                    assert said["acknowledged"] >= 1
                    for task in busy:
                        task.cancel()
