"""The processes that serve a database, each with a lease on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import bindparam, delete, insert, select, true, update

from handclasp.certificate_service.domain.changes import BEGINNING, Position
from handclasp.certificate_service.storage.database import Snapshot, Transaction
from handclasp.certificate_service.storage.schema import replicas, revisions


@dataclass(frozen=True, slots=True)
class Replica:
    """A process as its row says.

    Attributes:
        lease: seconds, from before the last renewal's transaction began.
        renewals: moves with each renewal.
        acknowledged: the revision up to which nobody who watches that process acts on what was so before.
        watchers: how many hold a lease of it.
    """

    id: str
    lease: float
    renewals: int
    acknowledged: int
    watchers: int


async def add_replica(transaction: Transaction, replica_id: str, *, lease: float, acknowledged: int) -> None:
    await transaction.execute(
        insert(replicas).values(
            id=replica_id,
            lease_milliseconds=round(lease * 1000),
            renewals=0,
            acknowledged=acknowledged,
            watchers=0,
        )
    )


async def renew_replica(
    transaction: Transaction, replica_id: str, *, head: Position, acknowledged: int, watchers: int
) -> bool:
    """Whether it was there to be renewed, and the history is still the one that the process follows.

    Args:
        head: the last revision that the process knows of. If the database does not, what is acknowledged means nothing.
    """
    known = select(revisions.c.revision).where(revisions.c.revision == head.revision, revisions.c.mark == head.mark)
    statement = (
        update(replicas)
        .where(replicas.c.id == replica_id, true() if head == BEGINNING else known.exists())
        .values(renewals=replicas.c.renewals + 1, acknowledged=acknowledged, watchers=watchers)
    )
    done = await transaction.execute(statement.returning(replicas.c.id))
    return done.one_or_none() is not None


async def forget_replicas(transaction: Transaction, gone: Sequence[Replica]) -> None:
    """Deletes the rows, but those that were renewed since they were read."""
    same = (replicas.c.id == bindparam("gone_id"), replicas.c.renewals == bindparam("read_renewals"))
    # In one order, so that two processes that do this do not wait for each other.
    ordered = sorted(gone, key=lambda one: one.id)
    await transaction.execute(
        delete(replicas).where(*same), [{"gone_id": one.id, "read_renewals": one.renewals} for one in ordered]
    )


async def other_replicas(snapshot: Snapshot, replica_id: str) -> list[Replica]:
    """All but that one."""
    rows = await snapshot.fetch(select(replicas).where(replicas.c.id != replica_id).order_by(replicas.c.id))
    return [
        Replica(row.id, row.lease_milliseconds / 1000, row.renewals, row.acknowledged, row.watchers) for row in rows
    ]
