"""Brings the schema up to date, when the service starts."""

from __future__ import annotations

import asyncio
from pathlib import Path

import structlog
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.script.revision import RevisionError
from alembic.util.exc import CommandError
from sqlalchemy import Connection, inspect, select, text

from handclasp.certificate_service.storage.database import Database
from handclasp.certificate_service.storage.schema import replicas

_MIGRATIONS = Path(__file__).parent / "migrations"
# Any number that nobody else takes on this database.
_LOCK = 0x68616E64636C6173
_LOOK_SECONDS = 0.25
_LOG = structlog.stdlib.get_logger(__name__)

# A migration says with this, set to true, that processes of the version before may go on beside it: that they neither
# fail on the new schema nor miss what it is there for. Most do not: a process that knows of no holds would heed none.
SIDE_BY_SIDE = "side_by_side"


class SchemaTooNewError(Exception):
    """The database was made by a newer version of this software."""


class OldVersionRunningError(Exception):
    """Processes of an older version serve the database, and cannot go on with the new schema."""


async def migrate(database: Database) -> None:
    """Runs the migrations that are missing, all in one transaction, and one process at a time.

    Raises:
        SchemaTooNewError: the database is at a revision that this version does not know.
        OldVersionRunningError: it has to be changed, and others serve it at this moment.
    """
    async with database.writer.connect() as connection:
        leases = await connection.run_sync(_leases_in_the_way)
    if leases:
        await _wait_for_their_end(database, leases)
    async with database.writer.begin() as connection:
        if database.shared:
            await connection.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
        await connection.run_sync(_upgrade)


def _leases_in_the_way(connection: Connection) -> dict[str, tuple[int, float]]:
    """Of processes that may be running and could not go on: how often each was renewed, and its lease in seconds."""
    before = MigrationContext.configure(connection).get_current_revision()
    scripts = ScriptDirectory.from_config(_config(connection))
    if before is None or before == scripts.get_current_head() or not inspect(connection).has_table(replicas.name):
        return {}
    try:
        missing = list(scripts.iterate_revisions("head", before))
    except (CommandError, RevisionError):
        return {}  # Of a newer version, which `_upgrade` says.
    if all(getattr(script.module, SIDE_BY_SIDE, False) for script in missing):
        return {}
    columns = (replicas.c.id, replicas.c.renewals, replicas.c.lease_milliseconds)
    return {row.id: (row.renewals, row.lease_milliseconds / 1000) for row in connection.execute(select(*columns))}


async def _wait_for_their_end(database: Database, leases: dict[str, tuple[int, float]]) -> None:
    """Returns if none of them is renewed until it is over: those processes are gone, and have left their rows.

    Raises:
        OldVersionRunningError: one of them is renewed, or another one has come, and nobody has changed the schema yet.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + 1.1 * max(lease for _, lease in leases.values())
    while database.shared and loop.time() < end:
        await asyncio.sleep(_LOOK_SECONDS)
        async with database.lookups() as connection:
            found = await connection.execute(select(replicas.c.id, replicas.c.renewals))
            if any(row.id not in leases or row.renewals != leases[row.id][0] for row in found):
                if not await connection.run_sync(_leases_in_the_way):
                    return  # Another process of this version was quicker, and serves already.
                raise OldVersionRunningError(
                    "the database has to be changed for this version, and processes of an older one serve it; stop all"
                    " of them, start this one, and then the others with this version"
                )


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.attributes["connection"] = connection
    return config


def _upgrade(connection: Connection) -> None:
    config = _config(connection)
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
