"""What is counted of the database."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from handclasp.certificate_service.storage.database import Database, Transaction
from handclasp.errors import NotFound, Reason
from tests.unit.certificate_service.records import put_user


async def test_writes_that_wait_together_are_one_batch(database: Database) -> None:
    figures = database.figures
    batches, writes = figures.batches.count, figures.seconds["write"].count
    await asyncio.gather(*(put_user(database, f"user-{number}") for number in range(10)))
    assert figures.batches.count - batches < 10
    assert figures.seconds["write"].count - writes == figures.batches.count - batches
    assert figures.waits.count >= 10
    assert not figures.failures


async def test_what_fails_is_counted_and_what_is_refused_is_not(database: Database) -> None:
    figures = database.figures

    async def failing(transaction: Transaction) -> None:
        await transaction.execute(text("UPDATE nothing_of_the_kind SET x = 1"))

    async def refusing(_transaction: Transaction) -> None:
        raise NotFound(Reason.USER_NOT_FOUND, "not there")

    with pytest.raises(NotFound):
        await database.write(refusing)
    assert not figures.failures
    with pytest.raises(SQLAlchemyError):
        await database.write(failing)
    with pytest.raises(SQLAlchemyError):
        await database.query(lambda snapshot: snapshot.fetch(text("SELECT x FROM nothing_of_the_kind")))
    assert figures.failures == {"write": 1, "read": 1}


async def test_connections_in_use_are_given_back(database: Database) -> None:
    # One is kept by nobody: these are reads and writes that have ended.
    await put_user(database, "alice")
    assert all(in_use == 0 < most for in_use, most in database.connections().values())

    async def look(_snapshot: object) -> int:
        return sum(in_use for in_use, _ in database.connections().values())

    assert await database.read(look) == 1
