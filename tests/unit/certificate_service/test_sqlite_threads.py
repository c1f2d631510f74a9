"""What the writer of an SQLite database does in its thread, and what in that of the event loop."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from sqlalchemy import delete, insert, select, update

from handclasp.certificate_service.domain.changes import Effect
from handclasp.certificate_service.storage.database import Transaction, open_database
from handclasp.certificate_service.storage.migrate import migrate
from handclasp.certificate_service.storage.schema import installation


async def test_what_waits_or_changes_many_rows_does_not_hold_up_the_event_loop(tmp_path: Path) -> None:
    here = threading.get_ident()
    held_up: list[str] = []
    elsewhere: list[str] = []

    def on_statement(statement: str) -> None:
        (held_up if threading.get_ident() == here else elsewhere).append(" ".join(statement.split()[:2]))

    async def work(transaction: Transaction) -> None:
        await transaction.execute(insert(installation).values(name="a", value="1"))
        await transaction.fetch(select(installation))
        await transaction.execute(update(installation).values(value="2"))
        await transaction.execute(delete(installation))
        transaction.touch("users/a", Effect.ALTERED)

    database = open_database(f"sqlite+aiosqlite:///{tmp_path / 'database.sqlite'}")
    try:
        await migrate(database)
        async with database.writer.connect() as connection:
            driver: Any = (await connection.get_raw_connection()).driver_connection
            await driver.set_trace_callback(on_statement)
        await database.write(work)
    finally:
        await database.close()
    assert held_up == ["INSERT INTO", "SELECT installation.name,", "UPDATE revision_head", "INSERT INTO"]
    assert elsewhere == ["BEGIN IMMEDIATE", "UPDATE installation", "DELETE FROM", "COMMIT"]
