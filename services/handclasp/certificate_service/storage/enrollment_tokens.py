"""Enrollment tokens, by the hash of the token."""

from __future__ import annotations

import json
from datetime import datetime

from sqlalchemy import delete, insert, select, update

from handclasp.certificate_service.domain.enrollment_tokens import EnrollmentToken, Purpose, Use
from handclasp.certificate_service.storage.database import Snapshot, Transaction
from handclasp.certificate_service.storage.schema import enrollment_tokens

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
    query = select(enrollment_tokens).where(_column.token_hash == token_hash)
    row = (await snapshot.fetch(query)).one_or_none()
    if row is None:
        return None
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


async def void_tokens_of(transaction: Transaction, user_id: str) -> int:
    """Takes away a user's tokens that are not used yet; returns how many that were."""
    unused = _column.user_id == user_id, _column.use_time.is_(None)
    return int(getattr(await transaction.execute(delete(enrollment_tokens).where(*unused)), "rowcount", 0))


async def forget_tokens(transaction: Transaction, before: datetime) -> None:
    """Forgets those that expired before that moment."""
    await transaction.execute(delete(enrollment_tokens).where(_column.expire_time < before))
