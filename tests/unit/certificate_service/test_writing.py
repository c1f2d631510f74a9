"""Whether the database can be written to, as writes that fail and succeed tell."""

from __future__ import annotations

import os
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from handclasp.certificate_service.storage import writing
from handclasp.certificate_service.storage.database import Database, Transaction, storage_error
from handclasp.certificate_service.storage.faults import database_fault
from handclasp.certificate_service.storage.replicas import add_replica
from handclasp.certificate_service.storage.writing import ROOM, WriteFault, Writing


def add(transaction: Transaction) -> Awaitable[None]:
    return add_replica(transaction, os.urandom(8).hex(), lease=2.0, acknowledged=0)


async def make_full(database: Database) -> None:
    """So that rows do not fit in any more; for SQLite it is the same as a disk that is full."""
    async with database.writer.connect() as connection:
        await connection.execute(text("PRAGMA max_page_count = 1"))


async def add_much(transaction: Transaction) -> None:
    for _ in range(500):
        await add(transaction)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_write_that_found_no_room_says_so(database: Database) -> None:
    await make_full(database)
    with pytest.raises(SQLAlchemyError) as raised:
        await database.write(add_much)
    assert database.writing.fault is WriteFault.DISK_FULL
    refusal = storage_error(raised.value)
    assert refusal is not None
    assert (refusal.reason, "the disk of the database is full" in str(refusal)) == ("STORAGE_UNAVAILABLE", True)
    assert database_fault(raised.value) == "the database cannot be used: its disk is full; make room there"


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_database_that_is_read_only(database: Database) -> None:
    async with database.writer.connect() as connection:
        await connection.execute(text("PRAGMA query_only = ON"))
    with pytest.raises(SQLAlchemyError):
        await database.write(add)
    assert database.writing.fault is WriteFault.READ_ONLY


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize(
    ("state", "fault"),
    [
        ("53100", WriteFault.DISK_FULL),
        ("25006", WriteFault.READ_ONLY),
        ("58030", WriteFault.DISK_FAILS),
        ("40001", None),
        ("53300", None),
    ],
)
async def test_what_postgresql_says(database: Database, state: str, fault: WriteFault | None) -> None:
    async def fail(transaction: Transaction) -> None:
        await transaction.execute(text(f"DO $$ BEGIN RAISE EXCEPTION 'so it is' USING ERRCODE = '{state}'; END $$"))

    for write in (database.write, database.write_apart):
        with pytest.raises(SQLAlchemyError):
            await write(fail)
        assert database.writing.fault is fault
        database.writing.succeeded()


async def test_what_is_not_the_disks_fault_is_not_taken_for_it(database: Database) -> None:
    async def wrong(transaction: Transaction) -> None:
        await transaction.execute(text("INSERT INTO nothing_of_the_kind VALUES (1)"))

    async def twice(transaction: Transaction) -> None:
        for _ in range(2):
            await add_replica(transaction, "same", lease=2.0, acknowledged=0)

    works: tuple[Callable[[Transaction], Awaitable[None]], ...] = (wrong, twice)
    for work in works:
        with pytest.raises(SQLAlchemyError):
            await database.write(work)
    assert database.writing.fault is None


def test_a_disk_without_room_is_a_fault_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = Writing(tmp_path)
    assert known.has_room()
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(writing, "disk_usage", lambda _: type(usage)(usage.total, usage.used, ROOM - 1))
    assert not known.has_room()
    assert known.fault is WriteFault.DISK_FULL
    monkeypatch.undo()
    assert known.has_room()
    assert known.fault is WriteFault.DISK_FULL, "that there is room does not say that it can be written to"
    known.succeeded()
    assert known.fault is None
