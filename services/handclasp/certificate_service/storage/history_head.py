"""The head of the history, as one who reads sees it."""

from __future__ import annotations

from sqlalchemy import select

from handclasp.certificate_service.domain.changes import Position
from handclasp.certificate_service.storage.database import Snapshot
from handclasp.certificate_service.storage.schema import revision_head

_head = select(revision_head.c.revision, revision_head.c.mark)


async def head_seen(snapshot: Snapshot) -> Position:
    """The last position that is committed. In a snapshot, whatever else is read there is as it was then (rule 7)."""
    row = (await snapshot.fetch(_head)).one()
    return Position(row.revision, row.mark)
