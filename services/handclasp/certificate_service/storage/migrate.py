"""Brings the schema up to date, when the service starts."""

from __future__ import annotations

from pathlib import Path

import structlog
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy import Connection

from handclasp.certificate_service.storage.database import Database

_MIGRATIONS = Path(__file__).parent / "migrations"
_LOG = structlog.stdlib.get_logger(__name__)


class SchemaTooNewError(Exception):
    """The database was made by a newer version of this software."""


async def migrate(database: Database) -> None:
    """Runs the migrations that are missing, all in one transaction.

    Raises:
        SchemaTooNewError: the database is at a revision that this version does not know.
    """
    async with database.writer.begin() as connection:
        await connection.run_sync(_upgrade)


def _upgrade(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.attributes["connection"] = connection
    before = MigrationContext.configure(connection).get_current_revision()
    head = ScriptDirectory.from_config(config).get_current_head()
    if before == head:
        return
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise SchemaTooNewError(
            f"the database is at revision {before}, which this version does not know; run the version that made it, or"
            " a newer one"
        ) from error
    _LOG.info("schema_migrated", before=before, after=head)
