"""Trust anchors."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Row, delete, insert, select

from handclasp.certificate_service.domain.certificates import TrustAnchor
from handclasp.certificate_service.domain.visibility import Visible
from handclasp.certificate_service.storage.database import Snapshot, Transaction
from handclasp.certificate_service.storage.schema import trust_anchors
from handclasp.certificate_service.storage.users import ids_visible


async def all_anchors(snapshot: Snapshot) -> list[TrustAnchor]:
    """Every trust anchor, oldest first."""
    return [_anchor(row) for row in await snapshot.fetch(select(trust_anchors).order_by(trust_anchors.c.id))]


async def list_anchors(snapshot: Snapshot, visible: Visible, *, after: str, limit: int) -> list[TrustAnchor]:
    """Trust anchors that may be seen, oldest first."""
    query = (
        select(trust_anchors)
        .where(trust_anchors.c.id > after, ids_visible(trust_anchors.c.id, visible))
        .order_by(trust_anchors.c.id)
        .limit(limit)
    )
    return [_anchor(row) for row in await snapshot.fetch(query)]


async def add_anchor(transaction: Transaction, anchor: TrustAnchor) -> None:
    await transaction.execute(
        insert(trust_anchors).values(
            id=anchor.id,
            display_name=anchor.display_name,
            subject=anchor.subject,
            fingerprint=anchor.fingerprint,
            not_before=anchor.not_before,
            not_after=anchor.not_after,
            der=anchor.der,
            create_time=anchor.create_time,
            created_by=anchor.created_by,
        )
    )


async def remove_anchor(transaction: Transaction, anchor_id: str) -> bool:
    """Whether there was one to remove."""
    done = await transaction.execute(
        delete(trust_anchors).where(trust_anchors.c.id == anchor_id).returning(trust_anchors.c.id)
    )
    return done.one_or_none() is not None


def _anchor(row: Row[Any]) -> TrustAnchor:
    return TrustAnchor(
        id=row.id,
        display_name=row.display_name,
        subject=row.subject,
        fingerprint=row.fingerprint,
        not_before=row.not_before,
        not_after=row.not_after,
        der=row.der,
        create_time=row.create_time,
        created_by=row.created_by,
    )
