"""Migrations: they make the schema that the code believes in, and touch nothing that is newer."""

from __future__ import annotations

from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, inspect, text

from handclasp.certificate_service.storage.database import Database, open_database
from handclasp.certificate_service.storage.migrate import SchemaTooNewError, migrate
from handclasp.certificate_service.storage.schema import metadata


async def test_they_make_what_the_schema_says(database: Database) -> None:
    def differences(connection: Connection) -> list[Any]:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "target_metadata": metadata})
        return list(compare_metadata(context, metadata))

    async with database.writer.connect() as connection:
        assert await connection.run_sync(differences) == []


async def test_nullability_and_order_of_text_agree_too(database: Database) -> None:
    """What the comparison above does not look at: above all the collation, on which pages depend."""

    def described(connection: Connection) -> dict[tuple[str, str], tuple[bool, bool]]:
        inspector = inspect(connection)
        return {
            (table, column["name"]): (column["nullable"], getattr(column["type"], "collation", None) == "C")
            for table in metadata.tables
            for column in inspector.get_columns(table)
        }

    async with database.writer.connect() as connection:
        found = await connection.run_sync(described)
        dialect = connection.dialect
    expected = {
        (table.name, column.name): (
            bool(column.nullable),
            getattr(column.type.dialect_impl(dialect), "collation", None) == "C",
        )
        for table in metadata.tables.values()
        for column in table.columns
    }
    assert found == expected


async def test_again_they_change_nothing(database: Database) -> None:
    async def revision() -> str:
        async with database.writer.connect() as connection:
            return str((await connection.execute(text("SELECT version_num FROM alembic_version"))).scalar_one())

    before = await revision()
    await migrate(database)
    assert await revision() == before


async def test_a_newer_database_is_refused_and_left_alone(database: Database, database_url: str) -> None:
    async with database.writer.begin() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    older_software = open_database(database_url)
    try:
        with pytest.raises(SchemaTooNewError) as caught:
            await migrate(older_software)
    finally:
        await older_software.close()
    assert "9999" in str(caught.value)
    assert "newer" in str(caught.value)
    async with database.writer.connect() as connection:
        kept = (await connection.execute(text("SELECT version_num FROM alembic_version"))).scalar_one()
    assert kept == "9999"
