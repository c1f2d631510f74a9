"""What keeps relying parties, and the processes that serve one database, in step: wired here, run by the process."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from handclasp.certificate_service.storage.database import Database
from handclasp.certificate_service.storage.notifications import BARRIER, REVISIONS, SETTLED, Listener, Seals
from handclasp.certificate_service.watching.anchors import AnchorsFollower
from handclasp.certificate_service.watching.answering import BarrierAnswers
from handclasp.certificate_service.watching.barrier import Barrier
from handclasp.certificate_service.watching.feed import ChangeFeed
from handclasp.certificate_service.watching.leases import LeaseClock, Leases
from handclasp.certificate_service.watching.others import OtherReplicas
from handclasp.certificate_service.watching.replica import ReplicaLease


@dataclass(frozen=True, slots=True)
class Coordination:
    """The parts, each for whoever needs it."""

    feed: ChangeFeed
    leases: Leases
    replica: ReplicaLease
    barrier: Barrier
    others: OtherReplicas
    answers: BarrierAnswers
    anchors: AnchorsFollower
    listener: Listener | None

    def background(self) -> dict[str, Coroutine[Any, Any, None]]:
        """What has to run while the database is served, by name."""
        work = {"trust anchors": self.anchors.run(), "lease on the database": self.replica.run()}
        if self.listener is not None:
            work["notifications"] = self.listener.run()
        return work

    async def close(self) -> None:
        """Ends what is under way."""
        await self.answers.close()
        await self.feed.close()


async def coordinate(
    database: Database,
    *,
    url: str,
    lease: float,
    maximum_watchers: int,
    maximum_watchers_per_user: int,
    notifications: bool,
    secret: bytes,
    reload_anchors: Callable[[], Awaitable[None]],
    clock: LeaseClock,
) -> Coordination:
    """Reads where the history is, and begins to count down the leases of those who served the database before.

    Args:
        url: of the database.
        lease: in seconds: that of relying parties, and that of this process.
        notifications: whether to listen, if the database is one that several processes can serve.
        secret: shared by those processes: see `Seals`.
        reload_anchors: has this process's own listeners use the trust anchors as they are stored.

    Raises:
        SQLAlchemyError
    """
    seals = Seals(secret)
    feed = ChangeFeed(database)
    database.tell(feed)
    await feed.open()
    leases = Leases(clock, maximum=maximum_watchers, maximum_per_user=maximum_watchers_per_user)
    anchors = AnchorsFollower(feed, reload_anchors, patience=lease)
    replica = ReplicaLease(database, feed, leases, clock, seconds=lease, alone=not database.shared, also=[anchors])
    others = OtherReplicas(database, replica, clock, seals)
    feed.on_parted(leases.begin_anew)
    feed.on_parted(others.begin_anew)
    await others.look()
    answers = BarrierAnswers(database, feed, replica, [leases, anchors], seals)
    listener = None
    if database.shared and notifications:
        listener = Listener(url)
        listener.on(REVISIONS, feed.heard)
        listener.on(BARRIER, seals.opening(BARRIER, answers.asked))
        listener.on(SETTLED, seals.opening(SETTLED, others.heard))
        listener.on_connected(feed.in_doubt)
    return Coordination(
        feed=feed,
        leases=leases,
        replica=replica,
        barrier=Barrier(database, feed, [leases, anchors], others),
        others=others,
        answers=answers,
        anchors=anchors,
        listener=listener,
    )
