"""Answers the barriers of the other processes that serve the database."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog
from sqlalchemy.exc import SQLAlchemyError

from handclasp.certificate_service.domain.changes import Position
from handclasp.certificate_service.storage.database import Database
from handclasp.certificate_service.storage.notifications import BARRIER, SETTLED, Seals, number
from handclasp.certificate_service.watching.barrier import Settles
from handclasp.certificate_service.watching.feed import ChangeFeed
from handclasp.certificate_service.watching.leases import Settled
from handclasp.certificate_service.watching.replica import ReplicaLease
from handclasp.errors import Unavailable

_NUMBERS_ASKED = 2

_LOG = structlog.stdlib.get_logger(__name__)


class BarrierAnswers:
    """Settles, with those who watch here, the revisions that others wait for, and says so."""

    def __init__(
        self, database: Database, feed: ChangeFeed, own: ReplicaLease, sources: Sequence[Settles], seals: Seals
    ) -> None:
        self._database = database
        self._feed = feed
        self._own = own
        self._sources = sources
        self._seals = seals
        self._settling: set[asyncio.Task[None]] = set()
        self._open: set[Position] = set()

    def asked(self, text: str) -> None:
        """Another process waits for a position: `revision:mark`."""
        numbers = [number(part) for part in text.split(":")]
        if len(numbers) != _NUMBERS_ASKED or None in numbers:
            _LOG.warning("notification_makes_no_sense", channel=BARRIER)
            return
        revision, mark = numbers
        position = Position(revision or 0, mark or 0)
        if position in self._open:
            # The answer, which is not under way yet, is for all who ask.
            return
        self._open.add(position)
        task = asyncio.create_task(self._settle(position))
        # The event loop holds tasks weakly.
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)

    async def close(self) -> None:
        """Gives up what has not settled."""
        for task in self._settling:
            task.cancel()
        await asyncio.gather(*self._settling, return_exceptions=True)

    async def _settle(self, position: Position) -> None:
        try:
            try:
                await self._feed.reached(position)
                answers = await asyncio.gather(*(one.settle(position.revision) for one in self._sources))
            finally:
                self._open.discard(position)
            settled = sum(answers, Settled())
            # Those who hear nothing read as much in this process's row, with its next renewal.
            counts = f"{settled.acknowledged}:{settled.ended}:{settled.barred}"
            said = f"{self._own.id}:{position.revision}:{position.mark}:{counts}"
            await self._database.say(SETTLED, self._seals.seal(SETTLED, said))
        except (SQLAlchemyError, Unavailable) as error:
            # Whoever waits does so until this process's lease is over, or reads its next renewal.
            _LOG.warning("barrier_not_answered", revision=position.revision, error=type(error).__name__)
