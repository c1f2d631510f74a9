"""Reads what decisions depend on.

Calls that wait at the same time share one query, and each sees all that was committed before it asked. What was read of
a peer is remembered until the revision moves, if this process knows of every commit.
"""

from __future__ import annotations

import asyncio
import functools
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import structlog
from sqlalchemy import BindParameter, FromClause, Row, Select, bindparam, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from handclasp.certificate_service.domain.certificates import Hold, Revocation, RevocationReason
from handclasp.certificate_service.domain.decisions import CertificateFacts, PeerFacts, UserFacts
from handclasp.certificate_service.domain.permissions import Grant, Permission, ProfileGrant
from handclasp.certificate_service.domain.users import UserState
from handclasp.certificate_service.storage.database import Database, Snapshot
from handclasp.certificate_service.storage.schema import (
    certificates,
    grants,
    revision_head,
    trust_anchors,
    user_profiles,
    users,
)

_LOG = structlog.stdlib.get_logger(__name__)

_BATCH = 128

_Answer: TypeAlias = tuple[int, list[Row[Any]]]

_keys: BindParameter[Any] = bindparam("keys", expanding=True)
_user_columns = (users.c.id.label("user_id"), users.c.state, grants.c.profile_id, grants.c.permission, grants.c.pattern)


def _joined_grants(found: FromClause) -> FromClause:
    """With the profiles of the users found, and their grants."""
    return found.outerjoin(user_profiles, user_profiles.c.user_id == users.c.id).outerjoin(
        grants, grants.c.profile_id == user_profiles.c.profile_id
    )


# Each begins with the head, so that the revision is read in the same snapshot as everything else, and there is a row
# even if nothing is found. One join after the other, because SQLite would make a table of a join within a join.
_by_user = select(revision_head.c.revision, *_user_columns).select_from(
    _joined_grants(revision_head.outerjoin(users, users.c.id.in_(_keys)))
)

_by_fingerprint = select(
    revision_head.c.revision,
    certificates.c.id.label("certificate_id"),
    certificates.c.fingerprint,
    certificates.c.not_before,
    certificates.c.trusted_until,
    certificates.c.revoke_time,
    certificates.c.revocation_reason,
    certificates.c.revoked_by,
    certificates.c.hold_time,
    certificates.c.held_by,
    certificates.c.anchor_fingerprint,
    trust_anchors.c.id.label("anchor_id"),
    *_user_columns,
).select_from(
    _joined_grants(
        revision_head.outerjoin(certificates, certificates.c.fingerprint.in_(_keys))
        .outerjoin(users, users.c.id == certificates.c.user_id)
        .outerjoin(trust_anchors, trust_anchors.c.fingerprint == certificates.c.anchor_fingerprint)
    )
)


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a peer.

    Attributes:
        revision: the facts take into account every change up to this one.
        facts: the certificate on file and its user; None if there is none.
    """

    revision: int
    facts: PeerFacts | None


class FactsReader:
    """Facts of peers by fingerprint and of users by id, over connections of its own.

    Args:
        known_head: the revision up to which this process knows of all that is committed; None while it cannot tell.
            What was read at that revision or later is still so, and is not read again.
        remembered: how many peers' facts are kept at most; those unused for longest go first.
    """

    def __init__(
        self, database: Database, known_head: Callable[[], int | None] = lambda: None, *, remembered: int = 0
    ) -> None:
        self._known_head = known_head
        self._limit = remembered
        self._remembered: OrderedDict[str, Known] = OrderedDict()
        self._peers = _Queue(database, _by_fingerprint, "fingerprint")
        self._users = _Queue(database, _by_user, "user_id")

    async def peer(self, fingerprint: str) -> PeerFacts | None:
        """The certificate on file with that fingerprint, and its user."""
        return (await self.known(fingerprint)).facts

    async def known(self, fingerprint: str) -> Known:
        """The same, and the revision that it was read at."""
        head = self._known_head()
        remembered = self._remembered.get(fingerprint)
        if remembered is not None and head is not None and remembered.revision >= head:
            self._remembered.move_to_end(fingerprint)
            return remembered
        memory = self._remembered
        revision, rows = await self._peers.rows(fingerprint)
        known = Known(revision, _peer_facts(rows) if rows else None)
        # What was read before all was forgotten may be of another history.
        if rows and head is not None and memory is self._remembered:
            self._remember(fingerprint, known)
        return known

    async def user(self, user_id: str) -> UserFacts | None:
        _, rows = await self._users.rows(user_id)
        return _user_facts(rows) if rows else None

    def forget(self) -> None:
        """Has everything be read anew: revisions mean something else than they did."""
        self._remembered = OrderedDict()

    async def close(self) -> None:
        await self._peers.close()
        await self._users.close()

    def _remember(self, fingerprint: str, known: Known) -> None:
        self._remembered[fingerprint] = known
        self._remembered.move_to_end(fingerprint)
        while len(self._remembered) > self._limit:
            self._remembered.popitem(last=False)


async def user_facts(snapshot: Snapshot, user_ids: Iterable[str]) -> dict[str, UserFacts]:
    """The same within a transaction, by user id; unknown users are left out."""
    _, found = _grouped(await snapshot.fetch(_by_user, {"keys": list(user_ids)}), "user_id")
    return {key: _user_facts(rows) for key, rows in found.items()}


async def peer_facts(snapshot: Snapshot, fingerprint: str) -> PeerFacts | None:
    """The same of a peer: the certificate on file with that fingerprint, and its user."""
    _, found = _grouped(await snapshot.fetch(_by_fingerprint, {"keys": [fingerprint]}), "fingerprint")
    rows = found.get(fingerprint)
    return _peer_facts(rows) if rows else None


class _Queue:
    """Keys that wait for the next run of one query."""

    def __init__(self, database: Database, query: Select[Any], key_column: str) -> None:
        self._database = database
        self._query = query
        self._key_column = key_column
        self._waiting: dict[str, asyncio.Future[_Answer]] = {}
        self._connection: AsyncConnection | None = None
        self._loop: asyncio.Task[None] | None = None

    async def rows(self, key: str) -> _Answer:
        """The revision, and the rows with that key."""
        future = self._waiting.get(key)
        if future is None:
            # A query that runs already may have read before the caller asked, so a key is only ever joined to one that
            # has not begun.
            future = self._waiting[key] = asyncio.get_running_loop().create_future()
        if self._loop is None:
            self._loop = asyncio.create_task(self._run(), name=f"facts by {self._key_column}")
        # Shielded, because others may wait for the same one.
        return await asyncio.shield(future)

    async def close(self) -> None:
        while self._loop is not None:
            await self._loop
        await self._disconnect()

    async def _run(self) -> None:
        try:
            while self._waiting:
                keys = list(self._waiting)[:_BATCH]
                batch = {key: self._waiting.pop(key) for key in keys}
                try:
                    with self._database.figures.timed("lookup"):
                        revision, found = await self._read_over_a_connection_that_lives(keys)
                except Exception as error:  # noqa: BLE001 - raised where the facts were asked for
                    for future in batch.values():
                        future.set_exception(error)
                        future.exception()  # whoever asked may have left; then nobody else looks at it
                    await self._disconnect()
                else:
                    for key, future in batch.items():
                        future.set_result((revision, found.get(key, [])))
        finally:
            self._loop = None

    async def _read_over_a_connection_that_lives(self, keys: list[str]) -> tuple[int, dict[str, list[Row[Any]]]]:
        used_before = self._connection is not None
        try:
            return await self._read(keys)
        except DBAPIError as error:
            # The server may have closed it since it was used last.
            if not (used_before and error.connection_invalidated):
                raise
        await self._disconnect()
        return await self._read(keys)

    async def _read(self, keys: list[str]) -> tuple[int, dict[str, list[Row[Any]]]]:
        if self._connection is None:
            connection = self._database.lookups()
            await connection.start()
            self._connection = connection
        return _grouped(await self._connection.execute(self._query, {"keys": keys}), self._key_column)

    async def _disconnect(self) -> None:
        if self._connection is None:
            return
        connection, self._connection = self._connection, None
        try:
            await connection.invalidate()
            await connection.close()
        except Exception as error:  # noqa: BLE001 - it is given up in any case, and the next query makes another one
            _LOG.warning("connection_not_closed", error=type(error).__name__)


def _grouped(rows: Iterable[Row[Any]], key_column: str) -> tuple[int, dict[str, list[Row[Any]]]]:
    """The revision, and the rows by key."""
    revision = 0
    found: dict[str, list[Row[Any]]] = defaultdict(list)
    for row in rows:
        revision = row.revision
        key = getattr(row, key_column)
        if key is not None:
            found[key].append(row)
    return revision, found


def _user_facts(rows: list[Row[Any]]) -> UserFacts:
    first = rows[0]
    held = _grants(tuple((row.profile_id, row.permission, row.pattern) for row in rows if row.permission is not None))
    return UserFacts(first.user_id, first.state == UserState.ACTIVE, held)


# Most users hold what many others hold. What comes out follows from what goes in alone, so nothing here can be stale.
@functools.lru_cache(maxsize=256)
def _grants(held: tuple[tuple[str, str, str], ...]) -> tuple[ProfileGrant, ...]:
    return tuple(
        sorted(
            ProfileGrant(profile_id, Grant(Permission(permission), pattern)) for profile_id, permission, pattern in held
        )
    )


def _peer_facts(rows: list[Row[Any]]) -> PeerFacts:
    first = rows[0]
    revocation = None
    if first.revoke_time is not None:
        revocation = Revocation(first.revoke_time, RevocationReason(first.revocation_reason), first.revoked_by)
    return PeerFacts(
        CertificateFacts(
            id=first.certificate_id,
            fingerprint=first.fingerprint,
            not_before=first.not_before,
            trusted_until=first.trusted_until,
            revocation=revocation,
            hold=None if first.hold_time is None else Hold(first.hold_time, first.held_by),
            anchor_id=first.anchor_id,
            anchor_removed=first.anchor_fingerprint is not None and first.anchor_id is None,
        ),
        _user_facts(rows),
    )
