"""Refusals on record that are no decisions."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, delete, insert, select, update

from handclasp.certificate_service.domain.refusals import Refusal, RefusalKind, Refused
from handclasp.certificate_service.storage.database import Snapshot, Transaction
from handclasp.certificate_service.storage.schema import refusals

_column = refusals.c


async def save_refusals(transaction: Transaction, records: Sequence[Refusal], *, keep: int) -> None:
    """Writes new records, brings the counts of old ones up to date, and forgets all but the newest `keep` of each
    relying party that has new ones: what one reports pushes out nothing of another's."""
    ids = [record.id for record in records]
    known = set((await transaction.fetch(select(_column.id).where(_column.id.in_(ids)))).scalars())
    for record in records:
        if record.id in known:
            await transaction.execute(
                update(refusals)
                .where(_column.id == record.id)
                .values(occurrences=record.count, last_time=record.last_time)
            )
    fresh = [record for record in records if record.id not in known]
    if not fresh:
        return
    await transaction.execute(insert(refusals), [_row(record) for record in fresh])
    for relying_party in {record.refused.relying_party for record in fresh}:
        theirs = _column.relying_party == relying_party
        oldest_kept = select(_column.id).where(theirs).order_by(_column.id.desc()).offset(keep - 1).limit(1)
        boundary = (await transaction.fetch(oldest_kept)).scalar_one_or_none()
        if boundary is not None:
            await transaction.execute(delete(refusals).where(theirs, _column.id < boundary))


async def list_refusals(snapshot: Snapshot, *, before: str, since: datetime | None, limit: int) -> list[Refusal]:
    """The newest first.

    Args:
        before: an id; only those that began before it. Empty for all.
        since: only those of which the last one was then, or later.
    """
    query = select(refusals).order_by(_column.id.desc()).limit(limit)
    if before:
        query = query.where(_column.id < before)
    if since is not None:
        query = query.where(_column.last_time >= since)
    return [_refusal(row) for row in await snapshot.fetch(query)]


def _row(record: Refusal) -> dict[str, Any]:
    refused = record.refused
    return {
        "id": record.id,
        "kind": refused.kind,
        "reason": refused.reason,
        "listener": refused.listener,
        "method": refused.method,
        "relying_party": refused.relying_party,
        "peer_address": refused.peer_address,
        "fingerprint": refused.fingerprint,
        "first_time": record.first_time,
        "last_time": record.last_time,
        "occurrences": record.count,
    }


def _refusal(row: Row[Any]) -> Refusal:
    refused = Refused(
        kind=RefusalKind(row.kind),
        reason=row.reason,
        listener=row.listener,
        method=row.method,
        relying_party=row.relying_party,
        peer_address=row.peer_address,
        fingerprint=row.fingerprint,
    )
    return Refusal(row.id, refused, row.first_time, row.last_time, row.occurrences)
