"""The trust bundle: whom the servers of the trust domain let in.

It is asked for by anybody, so it is kept from one answer to the next. What is answered is never older than the
question: a bundle is used again only if the history has not moved since it was read, and that is looked at anew for
each question. A process that knows of every commit looks at what it has published; another one reads the head of the
history from the database, once for all questions that wait at the same time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from handclasp.certificate_service.domain.changes import Position
from handclasp.certificate_service.storage.database import Database, Snapshot
from handclasp.certificate_service.storage.history_head import head_seen
from handclasp.certificate_service.storage.installation import read_authorities
from handclasp.certificate_service.storage.trust_anchors import all_anchors


@dataclass(frozen=True, slots=True)
class TrustBundle:
    """The CA certificates of the trust domain, as DER: our own, of all replicas, the root first; and the trust anchors.
    Both oldest first. The same object for as long as nothing changes."""

    authorities: tuple[bytes, ...]
    anchors: tuple[bytes, ...]


class CurrentTrustBundle:
    """Reads it, or knows it.

    Args:
        known_head: the position up to which this process knows of all that is committed; None while it cannot tell.
    """

    def __init__(self, database: Database, known_head: Callable[[], Position | None]) -> None:
        self._database = database
        self._known_head = known_head
        self._kept: tuple[Position, TrustBundle] | None = None
        # For those who ask while a read is under way, which may have begun before what they rely on was committed.
        self._next: asyncio.Task[TrustBundle] | None = None
        self._reading = asyncio.Lock()

    async def read(self) -> TrustBundle:
        """The bundle as it is now: with every change that was committed before this was called."""
        head = self._known_head()
        if head is not None and self._kept is not None and self._kept[0] == head:
            return self._kept[1]
        if self._next is None:
            self._next = asyncio.create_task(self._read_next(), name="trust bundle")
            self._next.add_done_callback(_retrieved)
        # Shielded, because others may wait for the same one.
        return await asyncio.shield(self._next)

    async def _read_next(self) -> TrustBundle:
        async with self._reading:
            # Who asks from here on joins the next one.
            self._next = None
            if self._kept is not None and self._kept[0] == await self._database.query(head_seen):
                return self._kept[1]
            self._kept = await self._database.read(self._read)
            return self._kept[1]

    async def _read(self, snapshot: Snapshot) -> tuple[Position, TrustBundle]:
        head = await head_seen(snapshot)
        own, anchors = await read_authorities(snapshot), await all_anchors(snapshot)
        bundle = TrustBundle(tuple(authority.der for authority in own), tuple(anchor.der for anchor in anchors))
        # Most changes are none of the bundle's, and then what was made of it need not be made anew.
        return head, self._kept[1] if self._kept is not None and self._kept[1] == bundle else bundle


def _retrieved(task: asyncio.Task[TrustBundle]) -> None:
    """Looks at an error, since whoever waited for it may have left."""
    if not task.cancelled():
        task.exception()
