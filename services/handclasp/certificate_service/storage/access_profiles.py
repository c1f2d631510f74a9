"""Access profiles and their grants."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import ColumnElement, Row, delete, exists, insert, select, update

from handclasp.certificate_service.domain.access_profiles import AccessProfile
from handclasp.certificate_service.domain.permissions import Grant, Permission
from handclasp.certificate_service.domain.visibility import Visible
from handclasp.certificate_service.storage.database import Snapshot, Transaction
from handclasp.certificate_service.storage.schema import access_profiles, grants, user_profiles
from handclasp.certificate_service.storage.users import ids_visible


async def find_profiles(snapshot: Snapshot, profile_ids: Iterable[str]) -> dict[str, AccessProfile]:
    """By id; unknown ones are left out."""
    ids = list(profile_ids)
    found = await _profiles(snapshot, access_profiles.c.id.in_(ids), limit=len(ids))
    return {profile.id: profile for profile in found}


async def list_profiles(snapshot: Snapshot, visible: Visible, *, after: str, limit: int) -> list[AccessProfile]:
    """Access profiles that may be seen, in order of id."""
    seen = ids_visible(access_profiles.c.id, visible)
    return await _profiles(snapshot, access_profiles.c.id > after, seen, limit=limit)


async def add_profile(transaction: Transaction, profile: AccessProfile) -> None:
    await transaction.execute(
        insert(access_profiles).values(
            id=profile.id,
            description=profile.description,
            built_in=profile.built_in,
            create_time=profile.create_time,
            update_time=profile.update_time,
        )
    )
    await _add_grants(transaction, profile)


async def save_profile(transaction: Transaction, profile: AccessProfile) -> None:
    await transaction.execute(
        update(access_profiles)
        .where(access_profiles.c.id == profile.id)
        .values(description=profile.description, update_time=profile.update_time)
    )
    await transaction.execute(delete(grants).where(grants.c.profile_id == profile.id))
    await _add_grants(transaction, profile)


async def delete_profile(transaction: Transaction, profile_id: str) -> None:
    await transaction.execute(delete(grants).where(grants.c.profile_id == profile_id))
    await transaction.execute(delete(access_profiles).where(access_profiles.c.id == profile_id))


async def profile_in_use(snapshot: Snapshot, profile_id: str) -> bool:
    found = await snapshot.fetch(select(exists().where(user_profiles.c.profile_id == profile_id)))
    return bool(found.scalar_one())


async def _profiles(snapshot: Snapshot, *conditions: ColumnElement[bool], limit: int) -> list[AccessProfile]:
    query = select(access_profiles).where(*conditions).order_by(access_profiles.c.id).limit(limit)
    rows = (await snapshot.fetch(query)).all()
    held: dict[str, list[Grant]] = {row.id: [] for row in rows}
    query_grants = select(grants).where(grants.c.profile_id.in_(list(held))).order_by(grants.c.position)
    for row in await snapshot.fetch(query_grants):
        held[row.profile_id].append(Grant(Permission(row.permission), row.pattern))
    return [_profile(row, held[row.id]) for row in rows]


async def _add_grants(transaction: Transaction, profile: AccessProfile) -> None:
    rows = [
        {"profile_id": profile.id, "position": position, "permission": grant.permission, "pattern": grant.pattern}
        for position, grant in enumerate(profile.grants)
    ]
    if rows:
        await transaction.execute(insert(grants), rows)


def _profile(row: Row[Any], held: Iterable[Grant]) -> AccessProfile:
    return AccessProfile(
        id=row.id,
        description=row.description,
        grants=tuple(held),
        built_in=row.built_in,
        create_time=row.create_time,
        update_time=row.update_time,
    )
