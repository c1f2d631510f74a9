"""This process as one that serves its database: until when it may grant leases.

What it grants never outlasts its own lease on the database (rule 18), so whoever serves the database after it, or
beside it, need only wait that one out: after a crash, a freeze, a link that was cut.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from functools import partial
from typing import Protocol

import structlog
from sqlalchemy.exc import SQLAlchemyError

from handclasp.certificate_service.storage.database import Database
from handclasp.certificate_service.storage.replicas import add_replica, other_replicas, renew_replica
from handclasp.certificate_service.storage.writing import write_fault
from handclasp.certificate_service.watching.feed import ChangeFeed
from handclasp.certificate_service.watching.leases import LeaseClock, Leases
from handclasp.errors import Unavailable

_LOG = structlog.stdlib.get_logger(__name__)

_RENEWALS_IN_A_LEASE = 4

# How often it is looked whether there is room on a disk, and tried whether a database can be written to again.
_LOOK_SECONDS = 1.0


class SettledUpTo(Protocol):
    """Whoever knows up to which revision nobody acts any more on what was so before."""

    def settled_up_to(self, head: int) -> int:
        """That revision, at most `head`, which is published."""


class ReplicaLease:
    """This process's own lease on the database.

    Args:
        seconds: how long it is, and so the longest that may be granted under it.
        alone: whether this process holds the database's lock, which it cannot lose while it lives: then the lease need
            not be renewed. A row is there all the same, for whoever comes after it (rule 13).
        also: who else has to have heeded a revision before this process says that it has.
    """

    def __init__(
        self,
        database: Database,
        feed: ChangeFeed,
        leases: Leases,
        clock: LeaseClock,
        *,
        seconds: float,
        alone: bool,
        also: Sequence[SettledUpTo] = (),
    ) -> None:
        self._database = database
        self._feed = feed
        self._leases = leases
        self._also = also
        self._clock = clock
        self._seconds = seconds
        self._alone = alone
        self._certain_until = float("-inf")
        self._rests_on_anothers_row = False
        self.id = ""
        """Of the row. Empty while there is none of this process's."""

    @property
    def seconds(self) -> float:
        """How long the lease is."""
        return self._seconds

    @property
    def certain_until(self) -> float:
        """The moment that nothing granted here may outlast."""
        return self._certain_until

    @property
    def rests_on_anothers_row(self) -> bool:
        """Whether leases are granted by the row of a process that has ended, which must stay for as long."""
        return self._rests_on_anothers_row

    async def begin(self) -> None:
        """Registers; or else, if the database cannot be written to and nobody else serves it, goes on without.

        Whoever comes after this process has to find how long a lease it may have granted (rule 13). That is there
        without a row of its own if there is its predecessor's, of a lease no shorter, and `OtherReplicas` leaves it
        there. If not, no leases are granted until the row can be written.

        Raises as `register`.
        """
        try:
            await self.register()
        except SQLAlchemyError as error:
            if not self._alone or write_fault(error) is None:
                raise
            rows = await self._database.query_apart(lambda snapshot: other_replicas(snapshot, ""))
            stands_in = any(row.lease >= round(self._seconds, 3) for row in rows)
            _LOG.warning("lease_on_database_not_written", leases_granted=stands_in)
            if stands_in:
                self._rests_on_anothers_row = True
                await self._catch_up()
                self._certain_until = float("inf")

    async def register(self) -> None:
        """Writes the row, under a new id each time (rule 21). Raises SQLAlchemyError, and as `ChangeFeed.reached`."""
        # A new id: whoever waits for the row of a process that was thought to be gone must not wait for this one's.
        replica_id = secrets.token_hex(16)
        began = self._clock()
        await self._database.write_apart(
            lambda transaction: add_replica(transaction, replica_id, lease=self._seconds, acknowledged=0)
        )
        self._database.writing.succeeded()
        self.id = replica_id
        self._rests_on_anothers_row = False
        await self._catch_up()
        self._certain_until = float("inf") if self._alone else began + self._seconds

    async def run(self) -> None:
        """Renews the lease, until cancelled. Alone, only when it is to be found out whether that can be written."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS if self._alone else self._seconds / _RENEWALS_IN_A_LEASE)
            if self._alone:
                # Of a file system elsewhere, that can take a while.
                has_room = await asyncio.to_thread(self._database.writing.has_room)
                if not has_room or self._database.writing.fault is None:
                    continue
            try:
                if self.id:
                    await self._renew()
                else:
                    await self.register()
            except (SQLAlchemyError, Unavailable) as error:
                if not self._alone:  # Else it was logged when it began, and harms nobody.
                    _LOG.warning("lease_on_database_not_renewed", error=type(error).__name__)

    async def _renew(self) -> None:
        # From before the transaction begins: others count from when they see it.
        began = self._clock()
        # What is settled is said along, for whoever waits and hears no notifications.
        head = self._feed.head
        acknowledged = min(source.settled_up_to(head.revision) for source in (self._leases, *self._also))
        watchers = self._leases.running()
        work = partial(renew_replica, replica_id=self.id, head=head, acknowledged=acknowledged, watchers=watchers)
        if not await self._database.write_apart(work):
            _LOG.warning(
                "lease_on_database_lost",
                hint="this process, or its link to the database, was held up, or the database went back",
            )
            await self.register()
            return
        self._database.writing.succeeded()
        await self._catch_up()
        self._certain_until = max(self._certain_until, began + self._seconds)

    async def _catch_up(self) -> None:
        """Reads where the history is, in a new statement after the renewal's commit, and publishes up to there before
        anything is granted on (rule 19)."""
        published = self._feed.head.revision
        await self._feed.reached(await self._database.history_head(), least=published)
