"""The history of changes: its head, which is a row that moves inside each transaction, and the newest revisions."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from typing import Any

from sqlalchemy import BigInteger, BindParameter, Row, String, bindparam, cast, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from handclasp.certificate_service.domain.changes import Change, Effect, Position, Revision
from handclasp.certificate_service.storage.notifications import REVISIONS
from handclasp.certificate_service.storage.schema import revision_head, revisions
from handclasp.certificate_service.storage.sqlite import BRIEF

KEPT = 10_000
"""How many revisions are kept. Whoever has been away for longer begins anew."""

_TRIM_EVERY = 500

_MARK_BITS = 63

# Made once: SQLAlchemy then knows them at once when they are run again. The new mark is the old one XOR a random
# number: so whoever made the number learns the old one, too.
_stir: BindParameter[int] = bindparam("stir", type_=BigInteger)
_mark = revision_head.c.mark
_advance = (
    update(revision_head)
    .values(revision=revision_head.c.revision + 1, mark=_mark.bitwise_or(_stir) - _mark.bitwise_and(_stir))
    .returning(revision_head.c.revision, revision_head.c.mark)
    .execution_options(**{BRIEF: True})
)
# The same, and tells the other processes that serve the database, when it commits.
_moved = _advance.cte("moved")
_advance_and_tell = select(
    _moved.c.revision, _moved.c.mark, func.pg_notify(f"handclasp_{REVISIONS}", cast(_moved.c.revision, String))
)
_lock = select(revision_head.c.revision).with_for_update()
_add = insert(revisions)
_head = select(revision_head.c.revision, revision_head.c.mark)


async def advance(connection: AsyncConnection, changes: Sequence[Change]) -> Revision:
    """Moves the head, and records what changed, in the transaction that the connection is in.

    The head's row stays locked until that commits, so revisions are committed in their order.
    """
    stir = secrets.randbits(_MARK_BITS)
    moving = _advance_and_tell if connection.dialect.name == "postgresql" else _advance
    row = (await connection.execute(moving, {"stir": stir})).one()
    revision, mark = row.revision, row.mark
    await connection.execute(_add, [{"revision": revision, "mark": mark, "changes": _text(changes)}])
    if revision % _TRIM_EVERY == 0:
        await connection.execute(delete(revisions).where(revisions.c.revision <= revision - KEPT))
    return Revision(Position(revision, mark), tuple(changes), previous_mark=mark ^ stir)


async def lock_head(connection: AsyncConnection) -> None:
    """Lets nobody else commit a change until the connection's transaction is over; what is read from then on includes
    all that others have committed. SQLite has one writer anyway."""
    if connection.dialect.name == "postgresql":
        await connection.execute(_lock)


async def read_head(connection: AsyncConnection) -> Position:
    """The last position that is committed, or that the connection's own transaction has moved to."""
    row = (await connection.execute(_head)).one()
    return Position(row.revision, row.mark)


async def read_revisions(connection: AsyncConnection, *, after: int, limit: int) -> list[Revision]:
    """Revisions above that one which are still kept, oldest first."""
    query = select(revisions).where(revisions.c.revision > after).order_by(revisions.c.revision).limit(limit)
    return [_revision(row) for row in await connection.execute(query)]


async def read_newest_revisions(connection: AsyncConnection, *, limit: int) -> list[Revision]:
    """The newest revisions, oldest first."""
    query = select(revisions).order_by(revisions.c.revision.desc()).limit(limit)
    return [_revision(row) for row in (await connection.execute(query)).all()][::-1]


def _text(changes: Sequence[Change]) -> str:
    return json.dumps([[change.name, change.effect.value] for change in changes], separators=(",", ":"))


def _revision(row: Row[Any]) -> Revision:
    changes = tuple(Change(name, Effect(effect)) for name, effect in json.loads(row.changes))
    return Revision(Position(row.revision, row.mark), changes)
