"""What processes on one PostgreSQL tell each other: heard while connected, and again after the connection broke."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest_asyncio
from sqlalchemy import text
from structlog.testing import capture_logs

from handclasp.certificate_service.storage.database import Database, open_database
from handclasp.certificate_service.storage.notifications import BARRIER, SETTLED, Listener
from tests.support.postgres import PostgresServer


@dataclass
class Ears:
    """A listener that runs, and what it heard."""

    database: Database
    connections: int = 0
    heard: list[tuple[str, str]] = field(default_factory=list)
    happened: asyncio.Event = field(default_factory=asyncio.Event)

    def on_connected(self) -> None:
        self.connections += 1
        self.happened.set()

    def on(self, channel: str, said: str) -> None:
        self.heard.append((channel, said))
        self.happened.set()

    async def until_connected(self, times: int) -> None:
        async with asyncio.timeout(20):
            while self.connections < times:
                self.happened.clear()
                await self.happened.wait()

    async def until_heard(self, *expected: tuple[str, str]) -> None:
        async with asyncio.timeout(20):
            while self.heard != list(expected):
                self.happened.clear()
                await self.happened.wait()

    async def break_connection(self) -> None:
        """As if PostgreSQL had been restarted."""
        async with self.database.lookups() as connection:
            await connection.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND query LIKE 'LISTEN%'"
                )
            )


@pytest_asyncio.fixture
async def ears(postgres: PostgresServer) -> AsyncIterator[Ears]:
    with postgres.database() as url:
        database = open_database(url)
        made = Ears(database)
        listener = Listener(url)
        for channel in (BARRIER, SETTLED):
            listener.on(channel, lambda said, channel=channel: made.on(channel, said))  # type: ignore[misc]
        listener.on_connected(made.on_connected)
        running = asyncio.create_task(listener.run())
        try:
            await made.until_connected(1)
            yield made
        finally:
            running.cancel()
            await asyncio.wait({running})
            await database.close()


async def test_what_is_said_is_heard_by_its_channel(ears: Ears) -> None:
    await ears.database.say(BARRIER, "7")
    await ears.database.say(SETTLED, "a:7:1:0")
    await ears.until_heard((BARRIER, "7"), (SETTLED, "a:7:1:0"))


async def test_after_each_break_it_listens_again_and_says_that_it_may_have_missed_something(ears: Ears) -> None:
    with capture_logs() as logs:
        for times in (2, 3, 4):
            await ears.break_connection()
            await ears.until_connected(times)
    await ears.database.say(BARRIER, "8")
    await ears.until_heard((BARRIER, "8"))
    breaks = [entry["retry_in"] for entry in logs if entry["event"] == "not_listening"]
    assert len(breaks) == 3
    assert len(set(breaks)) == 1, "a connection that was good does not count as one that failed"
