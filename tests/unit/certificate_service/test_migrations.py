"""Migrations: they make the schema that the code believes in, and touch nothing that is newer."""

from __future__ import annotations

import asyncio
import shutil
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from sqlalchemy import Connection, column, insert, inspect, table, text

from handclasp.certificate_service.domain.certificates import CertificateFilter, CertificateState, Hold
from handclasp.certificate_service.domain.visibility import Visible
from handclasp.certificate_service.storage import migrations
from handclasp.certificate_service.storage.certificates import find_certificate, hold_certificate, list_certificates
from handclasp.certificate_service.storage.database import Database, open_database
from handclasp.certificate_service.storage.installation import read_authorities
from handclasp.certificate_service.storage.migrate import (
    SIDE_BY_SIDE,
    OldVersionRunningError,
    SchemaTooNewError,
    _config,
    migrate,
)
from handclasp.certificate_service.storage.replicas import add_replica
from handclasp.certificate_service.storage.schema import metadata
from handclasp.certificate_service.storage.server_names import names_in_force, vouched_names_of
from handclasp.certificate_service.x509.issuing import LeafSubject, issue_leaf, make_root
from tests.support.postgres import PostgresServer


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


def upgrade(connection: Connection, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


async def test_the_cas_of_an_older_database_are_kept(database_url: str) -> None:
    """From 0003, where there was one of each role, and files had their ids in their names."""
    moment = int(datetime(2026, 1, 31, tzinfo=UTC).timestamp() * 1_000_000)
    files = {"issuing": "issuing-0abc.pem", "root": "root-0abd.pem"}
    opened = open_database(database_url)
    try:
        async with opened.writer.begin() as connection:
            await connection.run_sync(upgrade, "0003")
            for role, key_file in files.items():
                row: dict[str, Any] = {"role": role, "der": role.encode(), "key_file": key_file, "create_time": moment}
                await connection.execute(insert(table("authorities", *map(column, row))).values(row))
        await migrate(opened)
        found = await opened.read(read_authorities)
        assert [(record.id, record.role, record.der, record.key_file) for record in found] == [
            ("0abd", "root", b"root", "root-0abd.pem"),
            ("0abc", "issuing", b"issuing", "issuing-0abc.pem"),
        ]
    finally:
        await opened.close()


async def test_server_names_of_an_older_database_are_found(database_url: str) -> None:
    """From 0007: of those that the service itself, an administrator, and somebody else had issued, and of renewals."""
    now = datetime(2026, 1, 31, tzinfo=UTC)
    root = make_root(trust_domain="example.org", now=now)
    leaf = issue_leaf(
        root,
        subject=LeafSubject("server", "example.org", ("Orders.example.org", "::ffff:192.0.2.1")),
        public_key=ec.generate_private_key(ec.SECP256R1()).public_key(),
        now=now,
        lifetime=timedelta(days=1),
    ).public_bytes(Encoding.DER)
    moment = int(now.timestamp() * 1_000_000)
    written = {"create_time": moment, "update_time": moment}
    row: dict[str, Any] = {"user_id": "server", "origin": "SIGNED", "serial": "1", "subject": "", "issuer": ""}
    row |= {"key_algorithm": "", "not_before": moment, "not_after": moment + 1, "trusted_until": moment + 10**12}
    row |= {"chain_pem": "", "created_with": "", "description": "", "labels": "{}", "der": leaf, **written}
    issued = {
        "c1": ("", None),
        "c2": ("boss", None),
        "c3": ("lead", None),
        "c4": ("server", "c2"),
        "c5": ("server", "c3"),
    }
    opened = open_database(database_url)
    try:
        async with opened.writer.begin() as connection:
            await connection.run_sync(upgrade, "0007")

            async def put(name: str, values: dict[str, Any]) -> None:
                await connection.execute(insert(table(name, *map(column, values))).values(values))

            for user in ("server", "boss"):
                await put("users", {"id": user, "display_name": "", "state": "ACTIVE", **written})
            await put("access_profiles", {"id": "administrator", "description": "", "built_in": True, **written})
            await put("user_profiles", {"user_id": "boss", "profile_id": "administrator"})
            for number, (by, renewed) in issued.items():
                own = {"id": number, "fingerprint": number, "tbs_fingerprint": number}
                await put("certificates", {**row, **own, "created_by": by, "renewed_from": renewed})
            await put(
                "certificates",
                {**row, "id": "c6", "fingerprint": "6", "tbs_fingerprint": "6", "der": b"none", "created_by": ""},
            )
        await migrate(opened)
        for name in ("orders.example.org", "192.0.2.1"):
            found = await opened.read(partial(names_in_force, names=[name], now=now))
            assert [item.certificate_id for item in found] == sorted(issued)
        vouched = [
            number for number in sorted(issued) if await opened.read(partial(vouched_names_of, certificate_id=number))
        ]
        assert vouched == ["c1", "c2", "c4"]
    finally:
        await opened.close()


async def test_certificates_of_an_older_database_are_neither_on_hold_nor_renewed(database_url: str) -> None:
    """From 0002, with rows in it."""
    moment = int(datetime(2026, 1, 31, tzinfo=UTC).timestamp() * 1_000_000)
    written = {"create_time": moment, "update_time": moment}
    user = {"id": "alice", "display_name": "", "state": "ACTIVE"}
    leaf: dict[str, Any] = {"user_id": "alice", "origin": "SIGNED", "serial": "1", "subject": "CN=alice"}
    leaf |= {"issuer": "CN=CA", "key_algorithm": "EC P-256", "not_before": moment, "not_after": moment + 1}
    leaf |= {"trusted_until": moment + 1, "der": b"leaf", "chain_pem": "", "created_by": "", "created_with": ""}
    leaf |= {"description": "", "labels": "{}"}
    revoked_row = {"id": "c1", "fingerprint": "f1", "tbs_fingerprint": "t1", **leaf}
    revoked_row |= {"revoke_time": moment, "revocation_reason": "SUPERSEDED", "revoked_by": "admin"}
    good_row = {"id": "c2", "fingerprint": "f2", "tbs_fingerprint": "t2", **leaf}
    opened = open_database(database_url)
    try:
        async with opened.writer.begin() as connection:
            await connection.run_sync(upgrade, "0002")
            for name, row in (("users", user), ("certificates", revoked_row), ("certificates", good_row)):
                values = row | written
                await connection.execute(insert(table(name, *map(column, values))).values(values))

        await migrate(opened)

        revoked = await opened.read(lambda snapshot: find_certificate(snapshot, "c1"))
        good = await opened.read(lambda snapshot: find_certificate(snapshot, "c2"))
        assert revoked is not None
        assert good is not None
        assert (revoked.der, revoked.revocation is None, good.revocation is None) == (b"leaf", False, True)
        assert [(item.hold, item.renewed_from) for item in (revoked, good)] == [(None, None)] * 2

        now = good.create_time
        hold = Hold(now, "admin")
        assert not await opened.write(lambda transaction: hold_certificate(transaction, "c1", hold))
        assert await opened.write(lambda transaction: hold_certificate(transaction, "c2", hold))
        wanted = CertificateFilter(states=frozenset({CertificateState.ON_HOLD}))
        everybody = Visible(prefixes=frozenset({""}))
        found = await opened.read(
            lambda snapshot: list_certificates(snapshot, everybody, wanted, now=now, after="", limit=9)
        )
        assert [(item.id, item.hold) for item in found] == [("c2", hold)]
    finally:
        await opened.close()


async def at_the_first_revision_with_replicas(url: str) -> Database:
    """A database as an older version left it, with the row of one of its processes."""
    older = open_database(url)
    async with older.writer.begin() as connection:
        await connection.run_sync(_upgrade_to, "0002")
        await connection.execute(
            text(
                "INSERT INTO replicas (id, lease_milliseconds, renewals, acknowledged, watchers)"
                " VALUES ('old', 400, 0, 0, 0)"
            )
        )
    return older


def _upgrade_to(connection: Connection, revision: str) -> None:
    command.upgrade(_config(connection), revision)


async def renew_on(database: Database) -> None:
    while True:
        async with database.writer.begin() as connection:
            await connection.execute(text("UPDATE replicas SET renewals = renewals + 1"))
        await asyncio.sleep(0.1)


async def test_while_an_older_version_runs_nothing_is_changed(postgres: PostgresServer) -> None:
    with postgres.database() as url:
        older, newer = await at_the_first_revision_with_replicas(url), open_database(url)
        running = asyncio.create_task(renew_on(older))
        try:
            with pytest.raises(OldVersionRunningError):
                await migrate(newer)
            async with older.writer.connect() as connection:
                version = (await connection.execute(text("SELECT version_num FROM alembic_version"))).scalar_one()
            assert version == "0002"
        finally:
            running.cancel()
            await asyncio.wait({running})
            await older.close()
            await newer.close()


@pytest.mark.parametrize("unmarked", [None, "0004"])
async def test_older_processes_go_on_beside_migrations_that_all_say_that_they_can(
    unmarked: str | None, postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "migrations"
    shutil.copytree(Path(migrations.__file__).parent, folder)
    for script in folder.glob("versions/v*.py"):
        if unmarked is None or unmarked not in script.name:
            with script.open("a") as file:
                file.write(f"\n{SIDE_BY_SIDE} = True\n")
    monkeypatch.setattr("handclasp.certificate_service.storage.migrate._MIGRATIONS", folder)
    with postgres.database() as url:
        older, newer = await at_the_first_revision_with_replicas(url), open_database(url)
        running = asyncio.create_task(renew_on(older))
        try:
            if unmarked is None:
                await migrate(newer)
                assert not running.done()
            else:
                with pytest.raises(OldVersionRunningError):
                    await migrate(newer)
        finally:
            running.cancel()
            await asyncio.wait({running})
            await older.close()
            await newer.close()


async def test_what_an_older_version_left_behind_is_in_nobodys_way(database_url: str) -> None:
    older = await at_the_first_revision_with_replicas(database_url)
    await older.close()
    newer = open_database(database_url)
    try:
        await migrate(newer)
    finally:
        await newer.close()


async def test_one_of_the_same_version_that_was_quicker_is_no_older_one(postgres: PostgresServer) -> None:
    """All are started again at once while rows of the older version are still there. One migrates first, and serves."""
    with postgres.database() as url:
        older = await at_the_first_revision_with_replicas(url)
        late = open_database(url)
        migrating = asyncio.create_task(migrate(late))
        try:
            # It has looked at the rows, and waits for their end.
            await asyncio.sleep(0.1)
            async with older.writer.begin() as connection:
                await connection.run_sync(_upgrade_to, "head")
            await older.write(lambda transaction: add_replica(transaction, "new", lease=0.4, acknowledged=0))
            await migrating
        finally:
            await older.close()
            await late.close()


async def test_two_that_start_at_once_migrate_once(postgres: PostgresServer) -> None:
    with postgres.database() as url:
        both = [open_database(url) for _ in range(2)]
        try:
            await asyncio.gather(*(migrate(one) for one in both))
        finally:
            for one in both:
                await one.close()
