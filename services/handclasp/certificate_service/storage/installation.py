"""What holds for the whole installation, and the CAs' certificates."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, insert, inspect, select

from handclasp.certificate_service.storage.database import Database, Snapshot, Transaction
from handclasp.certificate_service.storage.schema import authorities, installation

TRUST_DOMAIN = "trust_domain"
PAGE_TOKEN_KEY = "page_token_key"  # noqa: S105 - the name of a row, not a secret


ROOT = "root"
ISSUING = "issuing"


@dataclass(frozen=True, slots=True)
class AuthorityRecord:
    """A CA of ours: its certificate, and the name of the file that has its key, in the key folder of one machine.

    Attributes:
        role: ROOT or ISSUING.
    """

    id: str
    role: str
    der: bytes = field(repr=False)
    key_file: str
    create_time: datetime


async def read_installation(snapshot: Snapshot) -> dict[str, str]:
    return {row.name: row.value for row in await snapshot.fetch(select(installation))}


async def has_installation(database: Database) -> bool:
    """Whether there is one, also in a database without any tables. Changes nothing."""

    def has_table(connection: Connection) -> bool:
        return inspect(connection).has_table(installation.name)

    async with database.lookups() as connection:
        if not await connection.run_sync(has_table):
            return False
    return bool(await database.read(read_installation))


async def add_installation(transaction: Transaction, values: dict[str, str]) -> None:
    await transaction.execute(insert(installation), [{"name": key, "value": value} for key, value in values.items()])


async def read_authorities(snapshot: Snapshot) -> list[AuthorityRecord]:
    """The root first, then the issuing CAs, oldest first."""
    column = authorities.c
    query = select(authorities).order_by(column.role.desc(), column.create_time, column.id)
    return [_authority(row) for row in await snapshot.fetch(query)]


async def find_authority(snapshot: Snapshot, authority_id: str) -> AuthorityRecord | None:
    row = (await snapshot.fetch(select(authorities).where(authorities.c.id == authority_id))).one_or_none()
    return None if row is None else _authority(row)


async def add_authority(transaction: Transaction, record: AuthorityRecord) -> None:
    await transaction.execute(
        insert(authorities).values(
            id=record.id,
            role=record.role,
            der=record.der,
            key_file=record.key_file,
            create_time=record.create_time,
        )
    )


def _authority(row: Row[Any]) -> AuthorityRecord:
    return AuthorityRecord(row.id, row.role, row.der, row.key_file, row.create_time)
