"""This process as one that serves its database: until when it may grant leases.

What it grants never outlasts its own lease on the database (rule 18), so whoever serves the database after it, or
beside it, need only wait that one out: after a crash, a freeze, a link that was cut.
"""

from __future__ import annotations

import asyncio
import secrets
from functools import partial

import structlog
from sqlalchemy.exc import SQLAlchemyError

from handclasp.certificate_service.storage.database import Database
from handclasp.certificate_service.storage.replicas import (
    Replica,
    add_replica,
    forget_replica,
    other_replicas,
    renew_replica,
)
from handclasp.certificate_service.watching.boottime import BootTime
from handclasp.certificate_service.watching.feed import ChangeFeed
from handclasp.certificate_service.watching.leases import Settled, waited

_LOG = structlog.stdlib.get_logger(__name__)

_RENEWALS_IN_A_LEASE = 4
_LOOK_SECONDS = 0.05


class ReplicaLease:
    """This process's own lease on the database.

    Args:
        seconds: how long it is, and so the longest that may be granted under it.
        alone: whether this process holds the database's lock, which it cannot lose while it lives: then the lease need
            not be renewed. Its row is there all the same, for whoever comes after it (rule 13).
    """

    def __init__(self, database: Database, feed: ChangeFeed, clock: BootTime, *, seconds: float, alone: bool) -> None:
        self._database = database
        self._feed = feed
        self._clock = clock
        self._seconds = seconds
        self._alone = alone
        self._certain_until = float("-inf")
        self.id = ""

    @property
    def certain_until(self) -> float:
        """The moment that nothing granted here may outlast."""
        return self._certain_until

    async def register(self) -> None:
        """Writes the row, under a new id each time (rule 21). Raises SQLAlchemyError."""
        # A new id: whoever waits for the row of a process that was thought to be gone must not wait for this one's.
        replica_id = secrets.token_hex(16)
        began = self._clock()
        await self._database.write(
            lambda transaction: add_replica(transaction, replica_id, lease=self._seconds, acknowledged=0)
        )
        self.id = replica_id
        await self._catch_up()
        self._certain_until = float("inf") if self._alone else began + self._seconds

    async def run(self) -> None:
        """Renews the lease, until cancelled."""
        if self._alone:
            return
        while True:
            await asyncio.sleep(self._seconds / _RENEWALS_IN_A_LEASE)
            try:
                await self._renew()
            except SQLAlchemyError as error:
                _LOG.warning("lease_on_database_not_renewed", error=type(error).__name__)

    async def _renew(self) -> None:
        # From before the transaction begins: others count from when they see it.
        began = self._clock()
        if not await self._database.write(lambda transaction: renew_replica(transaction, self.id)):
            _LOG.warning("lease_on_database_lost", hint="this process, or its link to the database, was held up")
            await self.register()
            return
        await self._catch_up()
        self._certain_until = max(self._certain_until, began + self._seconds)

    async def _catch_up(self) -> None:
        """Reads where the history is, in a new statement after the renewal's commit, and publishes up to there before
        anything is granted on (rule 19)."""
        head = await self._database.history_head()
        await self._feed.reached(head.revision)


class OtherReplicas:
    """The other processes that serve the database, or served it a moment ago, as a source of answers for the barrier.

    Args:
        own: this process's row is not looked at.
    """

    def __init__(self, database: Database, own: ReplicaLease, clock: BootTime) -> None:
        self._database = database
        self._own = own
        self._clock = clock
        self._seen: dict[tuple[str, int], float] = {}

    async def look(self) -> list[Replica]:
        """The rows of the others. Remembers when each renewal was seen first: its lease began before that."""
        found = await self._database.query(lambda snapshot: other_replicas(snapshot, self._own.id))
        now = self._clock()
        self._seen = {(one.id, one.renewals): self._seen.get((one.id, one.renewals), now) for one in found}
        return found

    async def settle(self, revision: int) -> Settled:
        """Returns once each of the others has acknowledged the revision, which is committed, or its lease is over.

        Later renewals do not prolong the wait: whoever renews reads a head that includes the revision (rules 19, 20).
        """
        found = await self.look()
        deadlines = {one.id: self._seen[one.id, one.renewals] + waited(one.lease) for one in found}
        while deadlines:
            now = self._clock()
            for one in found:
                deadline = deadlines.get(one.id)
                if deadline is not None and one.acknowledged >= revision:
                    del deadlines[one.id]
                elif deadline is not None and deadline <= now:
                    del deadlines[one.id]
                    await self._forget_if_over(one, now)
            for gone in deadlines.keys() - {one.id for one in found}:
                del deadlines[gone]
            if deadlines:
                await asyncio.sleep(min(_LOOK_SECONDS, max(0.0, min(deadlines.values()) - self._clock())))
                found = await self.look()
        return Settled()

    async def _forget_if_over(self, one: Replica, now: float) -> None:
        """Deletes a row whose lease is over, and not only the renewal that was waited for."""
        # Another barrier may have forgotten it, or seen it renewed, since this one looked.
        seen = self._seen.get((one.id, one.renewals))
        if seen is not None and seen + waited(one.lease) <= now:
            await self._database.write(partial(forget_replica, replica=one))
