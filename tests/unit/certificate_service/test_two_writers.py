"""Two processes that write to one PostgreSQL: neither waits for the other for ever, nor writes over what it did."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio
from sqlalchemy import insert, select, text, update

from handclasp.certificate_service.domain.changes import Effect
from handclasp.certificate_service.storage.database import Database, Transaction, open_database
from handclasp.certificate_service.storage.migrate import migrate
from handclasp.certificate_service.storage.schema import installation
from tests.support.postgres import PostgresServer

NAME = "counter"


@pytest.fixture(params=["read committed", "repeatable read", "serializable"])
def isolation(request: pytest.FixtureRequest) -> str:
    """What the database begins transactions with, if nobody says otherwise: its administrator's choice."""
    return str(request.param)


@pytest_asyncio.fixture
async def both(postgres: PostgresServer, isolation: str) -> AsyncIterator[tuple[Database, Database]]:
    with postgres.database() as url:
        async with AsyncExitStack() as stack:
            first = open_database(url)
            stack.push_async_callback(first.close)
            await migrate(first)
            async with first.writer.begin() as connection:
                name = (await connection.execute(text("SELECT current_database()"))).scalar_one()
                await connection.execute(
                    text(f"ALTER DATABASE \"{name}\" SET default_transaction_isolation TO '{isolation}'")
                )
                await connection.execute(insert(installation).values(name=NAME, value="0"))
            await first.close()
            opened = [open_database(url) for _ in range(2)]
            for one in opened:
                stack.push_async_callback(one.close)
            yield opened[0], opened[1]


async def count(transaction: Transaction) -> int:
    """Adds one to what is there."""
    row = await transaction.fetch(select(installation.c.value).where(installation.c.name == NAME))
    value = int(row.scalar_one()) + 1
    # Long enough for the other one to read the same.
    await asyncio.sleep(0.01)
    await transaction.execute(update(installation).where(installation.c.name == NAME).values(value=str(value)))
    return value


async def test_who_is_alone_sees_all_that_the_other_committed(both: tuple[Database, Database]) -> None:
    """Also if that moved no revision."""

    async def alone(transaction: Transaction) -> int:
        await transaction.alone()
        return await count(transaction)

    values = []
    for _ in range(5):
        values += await asyncio.gather(*(database.write(alone) for database in both))
    assert sorted(values) == list(range(1, 11))


async def test_revisions_are_moved_one_after_the_other(both: tuple[Database, Database]) -> None:
    """Rule 14."""

    async def touch(transaction: Transaction) -> None:
        transaction.touch("users/a", Effect.ALTERED)

    for _ in range(5):
        await asyncio.gather(*(database.write(touch) for database in both))
    assert (await both[0].history_head()).revision == 10


@pytest.mark.parametrize("isolation", ["read committed"], indirect=True)
async def test_whoever_shares_a_transaction_with_one_that_is_alone_is_in_nobodys_way(
    both: tuple[Database, Database],
) -> None:
    """Its row is wanted by the other process, which is alone by then, and for which this one waits to be alone."""
    has_row, is_alone = asyncio.Event(), asyncio.Event()

    async def row(transaction: Transaction) -> None:
        await transaction.execute(update(installation).where(installation.c.name == NAME).values(value="1"))
        has_row.set()
        # The other one comes as far as it gets.
        await asyncio.sleep(0.3)

    async def alone(transaction: Transaction) -> None:
        await transaction.alone()

    async def alone_and_row(transaction: Transaction) -> None:
        await transaction.alone()
        is_alone.set()
        await transaction.execute(update(installation).where(installation.c.name == NAME).values(value="2"))

    first, second = both
    shared = [asyncio.create_task(first.write(work)) for work in (row, alone)]
    await has_row.wait()
    # PostgreSQL would end one of two that wait for each other, after a second.
    await asyncio.gather(second.write(alone_and_row), *shared)
    assert is_alone.is_set()
