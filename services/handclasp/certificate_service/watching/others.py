"""The other processes that serve the database, as a source of answers for the barrier."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import structlog
from sqlalchemy.exc import SQLAlchemyError

from handclasp.certificate_service.domain.changes import Position
from handclasp.certificate_service.storage.database import Database
from handclasp.certificate_service.storage.notifications import BARRIER, SETTLED, Seals, number
from handclasp.certificate_service.storage.replicas import Replica, forget_replicas, other_replicas
from handclasp.certificate_service.watching.leases import LeaseClock, Settled, waited
from handclasp.certificate_service.watching.replica import ReplicaLease

_LOG = structlog.stdlib.get_logger(__name__)

_LOOK_SECONDS = 0.05
"""Between looks at the rows of the others, for notifications may be lost."""

_NUMBERS_SAID = 5


@dataclass(slots=True, eq=False)
class _Wait:
    """One wait, and what it has heard from whom."""

    position: Position
    heard: dict[str, Settled] = field(default_factory=dict)


class OtherReplicas:
    """Waits for the others, and for those that served the database a moment ago.

    Args:
        own: this process's row is not looked at.
    """

    def __init__(self, database: Database, own: ReplicaLease, clock: LeaseClock, seals: Seals) -> None:
        self._database = database
        self._own = own
        self._clock = clock
        self._seals = seals
        self._seen: dict[tuple[str, int], float] = {}
        self._longest = own.seconds
        self._not_all_known_until = float("-inf")
        self._waiting: set[_Wait] = set()
        self._heard = asyncio.Event()

    async def look(self) -> list[Replica]:
        """The rows of the others. Remembers when each renewal was seen first: its lease began before that."""
        found = await self._database.query_apart(lambda snapshot: other_replicas(snapshot, self._own.id))
        now = self._clock()
        self._seen = {(one.id, one.renewals): self._seen.get((one.id, one.renewals), now) for one in found}
        self._longest = max([self._longest, *(one.lease for one in found)])
        return found

    def begin_anew(self) -> None:
        """The database has gone back. What served it before may have no row in it, and be of the same renewal as one
        that was seen long ago; but nothing that it granted lasts longer from here on than a lease."""
        self._seen.clear()
        self._not_all_known_until = self._clock() + waited(self._longest)

    def heard(self, text: str) -> None:
        """Another process has said what it settled: `id:revision:mark:acknowledged:ended:barred`."""
        replica_id, *said = text.split(":")
        numbers = [value for value in map(number, said) if value is not None]
        if len(numbers) != len(said) or len(numbers) != _NUMBERS_SAID:
            _LOG.warning("notification_makes_no_sense", channel=SETTLED)
            return
        revision, mark, acknowledged, ended, barred = numbers
        for wait in self._waiting:
            # Of another history, the same revision says nothing.
            if wait.position == Position(revision, mark):
                wait.heard[replica_id] = Settled(acknowledged, ended, barred)
        self._heard.set()

    async def settle(self, position: Position) -> Settled:
        """Returns once each of the others has acknowledged the position, which is committed, or its lease is over.

        The rows are read after the commit (rule 20). Later renewals do not prolong the wait: whoever renews reads a
        head that includes the revision before it grants anything under that (rule 19).
        """
        wait = _Wait(position)
        self._waiting.add(wait)
        try:
            settled = await self._settle(wait)
        finally:
            self._waiting.remove(wait)
        while (left := self._not_all_known_until - self._clock()) > 0:  # noqa: ASYNC110 - nothing but the clock ends it
            await asyncio.sleep(left)
        return settled

    async def _settle(self, wait: _Wait) -> Settled:
        began = self._clock()
        rows = {one.id: one for one in await self.look()}
        if not rows:
            return Settled()
        deadlines = {one.id: self._seen[one.id, one.renewals] + waited(one.lease) for one in rows.values()}
        if self._database.shared:
            # On SQLite there is nobody to be asked: the others are processes that have ended.
            await self._ask(wait.position)
        settled = Settled()
        while True:
            # What is heard from here on ends the next wait at once.
            self._heard.clear()
            now = self._clock()
            ended = []
            for replica_id, deadline in list(deadlines.items()):
                one = rows[replica_id]
                answer = wait.heard.get(one.id)
                if answer is None and one.acknowledged >= wait.position.revision:
                    answer = Settled(acknowledged=one.watchers)
                if answer is not None:
                    settled += answer
                    del deadlines[one.id]
                elif deadline <= now:
                    # One that was over before, such as that of a process that was stopped a while ago, held up nobody.
                    settled += Settled(ended=one.watchers if deadline > began else 0)
                    del deadlines[one.id]
                    ended.append(one)
            if ended:
                try:
                    await self._forget_those_over(ended, now)
                except SQLAlchemyError as error:
                    # What was waited for has been carried out; housekeeping forgets them later.
                    _LOG.warning("replicas_not_forgotten", error=type(error).__name__)
            if not deadlines:
                return settled
            left = max(0.0, min(deadlines.values()) - self._clock())
            try:
                async with asyncio.timeout(min(_LOOK_SECONDS, left)):
                    await self._heard.wait()
            except TimeoutError:
                # One whose row is gone is waited for as it was seen last: others may have deleted it, since its lease
                # was over, but the database may have gone back, too.
                rows |= {one.id: one for one in await self.look()}

    async def _ask(self, position: Position) -> None:
        try:
            await self._database.say(BARRIER, self._seals.seal(BARRIER, f"{position.revision}:{position.mark}"))
        except SQLAlchemyError as error:
            _LOG.warning("barrier_not_announced", error=type(error).__name__)

    async def forget(self) -> None:
        """Deletes the rows whose leases are over, as seen since an earlier look. Raises SQLAlchemyError."""
        await self._forget_those_over(await self.look(), self._clock())

    async def _forget_those_over(self, found: Sequence[Replica], now: float) -> None:
        """Deletes rows whose lease is over, and not only the renewal that was waited for."""
        if self._own.rests_on_anothers_row:
            return
        over = []
        for one in found:
            # Another barrier may have forgotten it, or seen it renewed, since this one looked.
            seen = self._seen.get((one.id, one.renewals))
            if seen is not None and seen + waited(one.lease) <= now:
                _LOG.warning("replica_gone", replica=one.id, watchers=one.watchers)
                over.append(one)
        if over:
            await self._database.write(partial(forget_replicas, gone=over))
