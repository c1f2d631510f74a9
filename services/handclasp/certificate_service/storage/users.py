"""Users, their passwords' hashes and their access profiles."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, delete, func, insert, or_, select, update

from handclasp.certificate_service.domain.access_profiles import ADMINISTRATOR
from handclasp.certificate_service.domain.users import User, UserState
from handclasp.certificate_service.domain.visibility import Visible
from handclasp.certificate_service.storage.database import Snapshot, Transaction
from handclasp.certificate_service.storage.schema import user_profiles, users

# Ranges in one condition, which an index helps with. Of more, SQLite would make an expression that is too deep for it.
_MOST_RANGES = 100


async def find_user(snapshot: Snapshot, user_id: str) -> User | None:
    return next(iter(await _users(snapshot, users.c.id == user_id, limit=1)), None)


async def list_users(snapshot: Snapshot, visible: Visible, *, after: str, limit: int) -> list[User]:
    """Users that may be seen, in order of id."""
    return await _users(snapshot, users.c.id > after, ids_visible(users.c.id, visible), limit=limit)


async def add_user(transaction: Transaction, user: User, password_hash: str | None) -> None:
    await transaction.execute(
        insert(users).values(
            id=user.id,
            display_name=user.display_name,
            state=user.state,
            password_hash=password_hash,
            create_time=user.create_time,
            update_time=user.update_time,
        )
    )
    await _add_profiles(transaction, user.id, user.profile_ids)


async def save_user(transaction: Transaction, user: User) -> None:
    """Writes what can change of a user, except the password."""
    await transaction.execute(
        update(users)
        .where(users.c.id == user.id)
        .values(
            display_name=user.display_name,
            state=user.state,
            update_time=user.update_time,
            disable_time=user.disable_time,
        )
    )
    await transaction.execute(delete(user_profiles).where(user_profiles.c.user_id == user.id))
    await _add_profiles(transaction, user.id, user.profile_ids)


async def find_password_hash(snapshot: Snapshot, user_id: str) -> str | None:
    found = await snapshot.fetch(select(users.c.password_hash).where(users.c.id == user_id))
    hashed: str | None = found.scalar_one_or_none()
    return hashed


async def set_password_hash(transaction: Transaction, user_id: str, password_hash: str, now: datetime) -> None:
    await transaction.execute(
        update(users).where(users.c.id == user_id).values(password_hash=password_hash, update_time=now)
    )


async def count_other_administrators(snapshot: Snapshot, user_id: str) -> int:
    """How many active users besides this one have the `administrator` profile."""
    found = await snapshot.fetch(
        select(func.count())
        .select_from(users.join(user_profiles, user_profiles.c.user_id == users.c.id))
        .where(user_profiles.c.profile_id == ADMINISTRATOR, users.c.state == UserState.ACTIVE, users.c.id != user_id)
    )
    return int(found.scalar_one())


async def list_administrators(snapshot: Snapshot, *, limit: int) -> list[str]:
    """Ids of users with the `administrator` profile, active or not."""
    query = select(user_profiles.c.user_id).where(user_profiles.c.profile_id == ADMINISTRATOR)
    return list((await snapshot.fetch(query.order_by(user_profiles.c.user_id).limit(limit))).scalars())


def ids_visible(column: ColumnElement[str], visible: Visible) -> ColumnElement[bool]:
    """The condition that an id is one that may be seen."""
    # No LIKE: that of SQLite takes `ACME-` for `acme-`, and uses no index. DEL comes after all that ids may hold.
    if len(visible.prefixes) <= _MOST_RANGES:
        parts = [and_(column >= prefix, column < f"{prefix}\x7f") for prefix in sorted(visible.prefixes)]
    else:
        by_length: dict[int, list[str]] = defaultdict(list)
        for prefix in sorted(visible.prefixes):
            by_length[len(prefix)].append(prefix)
        parts = [func.substr(column, 1, length).in_(prefixes) for length, prefixes in sorted(by_length.items())]
    return or_(column.in_(sorted(visible.ids)), *parts)


async def _users(snapshot: Snapshot, *conditions: ColumnElement[bool], limit: int) -> list[User]:
    rows = (await snapshot.fetch(select(users).where(*conditions).order_by(users.c.id).limit(limit))).all()
    profiles = await _profiles_of(snapshot, [row.id for row in rows])
    return [_user(row, profiles.get(row.id, [])) for row in rows]


async def _profiles_of(snapshot: Snapshot, user_ids: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    query = select(user_profiles).where(user_profiles.c.user_id.in_(user_ids)).order_by(user_profiles.c.profile_id)
    for row in await snapshot.fetch(query):
        found.setdefault(row.user_id, []).append(row.profile_id)
    return found


async def _add_profiles(transaction: Transaction, user_id: str, profile_ids: Iterable[str]) -> None:
    rows = [{"user_id": user_id, "profile_id": profile_id} for profile_id in profile_ids]
    if rows:
        await transaction.execute(insert(user_profiles), rows)


def _user(row: Row[Any], profile_ids: Iterable[str]) -> User:
    return User(
        id=row.id,
        display_name=row.display_name,
        state=UserState(row.state),
        profile_ids=tuple(profile_ids),
        has_password=row.password_hash is not None,
        create_time=row.create_time,
        update_time=row.update_time,
        disable_time=row.disable_time,
    )
