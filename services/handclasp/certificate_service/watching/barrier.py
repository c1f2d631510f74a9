"""The barrier: what a call that takes something away waits for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, Protocol, TypeVar

from handclasp.certificate_service.domain.changes import Position
from handclasp.certificate_service.storage.database import Database, Transaction
from handclasp.certificate_service.watching.feed import ChangeFeed
from handclasp.certificate_service.watching.leases import Settled
from handclasp.serving.figures import Distribution

T = TypeVar("T")


class Settles(Protocol):
    """Where answers are collected from: those who watch this process."""

    async def settle(self, revision: int) -> Settled:
        """Returns once nobody there acts any more on what was so before that revision, which is published."""


class SettlesElsewhere(Protocol):
    """Other processes, which may not know yet of what this one has published."""

    async def settle(self, position: Position) -> Settled:
        """Returns once nobody there acts any more on what was so before that position, which is committed."""


class Ending(StrEnum):
    """How a wait ended."""

    NOBODY_WATCHED = "nobody_watched"
    ACKNOWLEDGED = "acknowledged"
    """By all."""
    LEASE_RAN_OUT = "lease_ran_out"
    """Of at least one."""
    ABANDONED = "abandoned"
    """Whoever waited has left, or the database went back."""


@dataclass(frozen=True, slots=True)
class InForce(Generic[T]):
    """What a call did, now that it is in force.

    Attributes:
        revision: includes what was done.
        settled: what became of the relying parties.
    """

    value: T
    revision: int
    settled: Settled


class Barrier:
    """Commits what takes something away, and waits until it is in force.

    Args:
        sources: those who watch this process.
        others: those who watch others.

    Attributes:
        waits: how many seconds changes waited once they were committed, by how that ended.
    """

    def __init__(
        self, database: Database, feed: ChangeFeed, sources: Sequence[Settles], others: SettlesElsewhere
    ) -> None:
        self._database = database
        self._feed = feed
        self._sources = sources
        self._others = others
        self.waits = {ending: Distribution() for ending in Ending}

    async def write(
        self, work: Callable[[Transaction], Awaitable[T]], committed: Callable[[T], None] = lambda _: None
    ) -> InForce[T]:
        """As `Database.write`, and returns once no relying party acts on what was so before. While `work` runs, nobody
        else commits a change, in whatever process.

        It waits, too, if `work` found that there was nothing to change (rule 15). Whoever leaves meanwhile undoes
        nothing.

        Raises:
            Unavailable: the database went back to before the change. And what `work` raises.
        """
        published = 0

        async def noted(transaction: Transaction) -> T:
            nonlocal published
            # The position is read after this. One that is below it, since there was nothing to change, is of a database
            # that has gone back: those who watch may act on what was restored meanwhile, and is lost.
            published = self._feed.head.revision
            return await work(transaction)

        value, position = await self._database.write_at_position(noted, committed)
        began, ending = time.perf_counter(), Ending.ABANDONED
        try:
            settled = await self._in_force(position, published)
            ending = _ending(settled)
        finally:
            self.waits[ending].observe(time.perf_counter() - began)
        return InForce(value, position.revision, settled)

    async def _in_force(self, position: Position, published: int) -> Settled:
        # Published first; only then is it asked who has to know (rule 9).
        await self._feed.reached(position, least=published)
        here = (source.settle(position.revision) for source in self._sources)
        settled = await asyncio.gather(*here, self._others.settle(position))
        # The history may have parted meanwhile, and then it was another change that all of them waited for.
        await self._feed.reached(position)
        return sum(settled, Settled())


def _ending(settled: Settled) -> Ending:
    if settled.ended:
        return Ending.LEASE_RAN_OUT
    return Ending.ACKNOWLEDGED if settled.acknowledged else Ending.NOBODY_WATCHED
