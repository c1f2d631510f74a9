"""What is said of a database that cannot be used."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.exc import SQLAlchemyError

from handclasp.certificate_service.storage.database import open_database
from handclasp.certificate_service.storage.faults import database_fault
from handclasp.certificate_service.storage.migrate import migrate
from tests.support.postgres import PostgresServer

PASSWORD = "not-to-be-seen"


async def fault(url: str) -> str:
    database = open_database(url)
    try:
        with pytest.raises(SQLAlchemyError) as caught:
            await database.read(lambda snapshot: snapshot.fetch(text("SELECT 1")))
    finally:
        await database.close()
    said = database_fault(caught.value)
    assert PASSWORD not in said
    assert "\n" not in said
    return said


async def test_a_server_that_is_not_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert "connection is refused" in await fault(f"postgresql+psycopg://me:{PASSWORD}@127.0.0.1:{port}/any")


async def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("not a database, but long enough to be looked at" * 50)
    assert "its file is no database" in await fault(f"sqlite+aiosqlite:///{path}")
    assert "cannot be opened" in await fault(f"sqlite+aiosqlite:///{tmp_path}/nowhere/file")


async def test_a_file_that_cannot_be_opened_leaves_no_thread(tmp_path: Path) -> None:
    """It would tell the event loop of its end, which may be closed by then."""
    before = set(threading.enumerate())
    for _ in range(20):
        await fault(f"sqlite+aiosqlite:///{tmp_path}/nowhere/file")
        left = set(threading.enumerate()) - before
        assert not [thread for thread in left if "_connection_worker" in thread.name]


async def test_what_the_server_does_not_know(postgres: PostgresServer) -> None:
    url = make_url(postgres.url("postgres"))
    unknown = url.set(database="nope").render_as_string(hide_password=False)
    assert "no database of that name" in await fault(unknown)
    stranger = url.set(username="stranger", password=PASSWORD).render_as_string(hide_password=False)
    said = await fault(stranger)
    assert "does not know the user" in said or "refuses the user" in said


async def test_a_server_that_is_read_only(postgres: PostgresServer) -> None:
    """A standby says the same."""
    with postgres.database() as url:
        database = open_database(f"{url}&options=-cdefault_transaction_read_only%3Don")
        try:
            with pytest.raises(SQLAlchemyError) as caught:
                await migrate(database)
        finally:
            await database.close()
    assert "it is read-only" in database_fault(caught.value)
