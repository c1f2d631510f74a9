"""Denials on record."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, delete, insert, select, update

from handclasp.certificate_service.domain.decisions import DecisionReason
from handclasp.certificate_service.domain.denials import Denial
from handclasp.certificate_service.domain.permissions import Permission
from handclasp.certificate_service.storage.database import Snapshot, Transaction
from handclasp.certificate_service.storage.schema import denials


async def find_denial(snapshot: Snapshot, decision_id: str) -> Denial | None:
    row = (await snapshot.fetch(select(denials).where(denials.c.id == decision_id))).one_or_none()
    return None if row is None else _denial(row)


async def list_denials(snapshot: Snapshot, *, before: str, since: datetime | None, limit: int) -> list[Denial]:
    """The newest first.

    Args:
        before: an id; only those that began before it. Empty for all.
        since: only those of which the last one was then, or later.
    """
    query = select(denials).order_by(denials.c.id.desc()).limit(limit)
    if before:
        query = query.where(denials.c.id < before)
    if since is not None:
        query = query.where(denials.c.last_time >= since)
    return [_denial(row) for row in await snapshot.fetch(query)]


async def save_denials(transaction: Transaction, records: Sequence[Denial], *, keep: int) -> None:
    """Writes new records, brings the counts of old ones up to date, and forgets all but the newest `keep`."""
    ids = [record.id for record in records]
    known = set((await transaction.fetch(select(denials.c.id).where(denials.c.id.in_(ids)))).scalars())
    for record in records:
        if record.id in known:
            await transaction.execute(
                update(denials)
                .where(denials.c.id == record.id)
                .values(occurrences=record.count, last_time=record.last_time)
            )
    fresh = [_row(record) for record in records if record.id not in known]
    if not fresh:
        return
    await transaction.execute(insert(denials), fresh)
    oldest_kept = select(denials.c.id).order_by(denials.c.id.desc()).offset(keep - 1).limit(1)
    boundary = (await transaction.fetch(oldest_kept)).scalar_one_or_none()
    if boundary is not None:
        await transaction.execute(delete(denials).where(denials.c.id < boundary))


def _row(record: Denial) -> dict[str, Any]:
    return {
        "id": record.id,
        "reason": record.reason,
        "rule": record.rule,
        "user_id": record.user_id,
        "certificate_id": record.certificate_id,
        "permission": record.permission or "",
        "resource": record.resource,
        "relying_party": record.relying_party,
        "peer_address": record.peer_address,
        "fingerprint": record.fingerprint,
        "first_time": record.first_time,
        "last_time": record.last_time,
        "occurrences": record.count,
    }


def _denial(row: Row[Any]) -> Denial:
    return Denial(
        id=row.id,
        reason=DecisionReason(row.reason),
        rule=row.rule,
        user_id=row.user_id,
        certificate_id=row.certificate_id,
        permission=Permission(row.permission) if row.permission else None,
        resource=row.resource,
        relying_party=row.relying_party,
        peer_address=row.peer_address,
        fingerprint=row.fingerprint,
        first_time=row.first_time,
        last_time=row.last_time,
        count=row.occurrences,
    )
