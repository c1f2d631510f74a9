"""Enrollment tokens, by the hash of the token."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, delete, insert, or_, select, update

from handclasp.certificate_service.domain.enrollment_tokens import EnrollmentToken, Purpose, Use
from handclasp.certificate_service.domain.visibility import Visible
from handclasp.certificate_service.storage.database import Snapshot, Transaction
from handclasp.certificate_service.storage.schema import enrollment_tokens
from handclasp.certificate_service.storage.users import ids_visible

_column = enrollment_tokens.c


async def add_token(transaction: Transaction, token: EnrollmentToken) -> None:
    await transaction.execute(
        insert(enrollment_tokens).values(
            id=token.id,
            token_hash=token.token_hash,
            purpose=token.purpose,
            user_id=token.user_id,
            server_names=json.dumps(token.server_names),
            create_time=token.create_time,
            expire_time=token.expire_time,
            created_by=token.created_by,
            created_with=token.created_with,
        )
    )


async def find_token(snapshot: Snapshot, token_hash: str) -> EnrollmentToken | None:
    return await _find(snapshot, _column.token_hash == token_hash)


async def find_token_by_id(snapshot: Snapshot, token_id: str) -> EnrollmentToken | None:
    return await _find(snapshot, _column.id == token_id)


async def list_good_tokens(
    snapshot: Snapshot,
    visible: Visible,
    *,
    with_replicas: bool,
    user_id: str | None,
    now: datetime,
    after: str,
    limit: int,
) -> list[EnrollmentToken]:
    """Tokens that are neither used nor expired, oldest first.

    Args:
        visible: the users whose certificates' tokens may be seen.
        with_replicas: whether those for replicas may be seen, whoever made them.
        user_id: whose; None for all that may be seen.
    """
    seen = and_(_column.purpose == Purpose.CERTIFICATE, ids_visible(_column.user_id, visible))
    conditions = [_column.id > after, _column.use_time.is_(None), _column.expire_time > now]
    conditions.append(or_(seen, _column.purpose == Purpose.REPLICA) if with_replicas else seen)
    if user_id is not None:
        conditions.append(_column.user_id == user_id)
    query = select(enrollment_tokens).where(*conditions).order_by(_column.id).limit(limit)
    return [_token(row) for row in await snapshot.fetch(query)]


async def _find(snapshot: Snapshot, condition: ColumnElement[bool]) -> EnrollmentToken | None:
    row = (await snapshot.fetch(select(enrollment_tokens).where(condition))).one_or_none()
    return None if row is None else _token(row)


def _token(row: Row[Any]) -> EnrollmentToken:
    return EnrollmentToken(
        id=row.id,
        token_hash=row.token_hash,
        purpose=Purpose(row.purpose),
        user_id=row.user_id,
        server_names=tuple(json.loads(row.server_names)),
        create_time=row.create_time,
        expire_time=row.expire_time,
        created_by=row.created_by,
        created_with=row.created_with,
        use=None if row.use_time is None else Use(row.use_time, row.key_hash, row.given_id),
    )


async def save_use(transaction: Transaction, token_id: str, use: Use) -> None:
    """Writes down that a token, which was not used before, is used now."""
    await transaction.execute(
        update(enrollment_tokens)
        .where(_column.id == token_id)
        .values(use_time=use.time, key_hash=use.key_hash, given_id=use.given_id)
    )


async def void_token(transaction: Transaction, token_id: str) -> None:
    """Takes a token away."""
    await transaction.execute(delete(enrollment_tokens).where(_column.id == token_id))


async def void_tokens_of(transaction: Transaction, user_id: str) -> int:
    """Takes away a user's tokens that are not used yet; returns how many that were."""
    unused = _column.user_id == user_id, _column.use_time.is_(None)
    return int(getattr(await transaction.execute(delete(enrollment_tokens).where(*unused)), "rowcount", 0))


async def void_tokens_by_password(transaction: Transaction, maker_id: str) -> int:
    """Takes away those that a user made by password, for whomever, and that are not used yet; returns how many that
    were."""
    theirs = _column.created_by == maker_id, _column.created_with == "", _column.use_time.is_(None)
    return int(getattr(await transaction.execute(delete(enrollment_tokens).where(*theirs)), "rowcount", 0))


async def forget_tokens(transaction: Transaction, before: datetime) -> None:
    """Forgets those that expired before that moment."""
    await transaction.execute(delete(enrollment_tokens).where(_column.expire_time < before))
