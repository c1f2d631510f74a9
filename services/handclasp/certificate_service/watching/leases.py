"""The leases that relying parties have, and who has acknowledged what."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeAlias

import structlog

from handclasp.certificate_service.domain.identifiers import user_name
from handclasp.errors import Reason, ResourceExhausted
from handclasp.serving.clock import Clock

_LOG = structlog.stdlib.get_logger(__name__)

CLOCK_RATE_BOUND = 0.01
"""By how much the clocks of service and relying party may differ in rate; the service waits that much longer."""

LeaseClock: TypeAlias = Clock
"""Seconds that go on while the machine is suspended, and heed nobody who sets the time of day."""

HolderKey: TypeAlias = tuple[str, str]
"""The user's id, and the id that the relying party's process made: one user's processes are told apart, and nobody
acknowledges in the name of another user (rule 12)."""


@dataclass(slots=True, eq=False)
class Holder:
    """A relying party's process.

    Attributes:
        streams: how many it has open.
        acknowledged: the revision up to which it has applied every change.
        lease_until: when its lease has certainly run out, by the service's clock.
        barred: whether its last stream ended because its own right had been taken away: it cannot acknowledge.
        awaited: who waits for an acknowledgement: least revision first.
    """

    key: HolderKey
    streams: int = 0
    acknowledged: int = 0
    lease_until: float = float("-inf")
    barred: bool = False
    awaited: list[tuple[int, int, _Wait]] = field(default_factory=list, repr=False)


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of the relying parties that a change had to reach.

    Attributes:
        acknowledged: how many have applied it.
        ended: how many leases ran out instead.
        barred: how many of the latter were of relying parties that had lost their own right, and could not acknowledge.
    """

    acknowledged: int = 0
    ended: int = 0
    barred: int = 0

    def __add__(self, other: Settled) -> Settled:
        return Settled(self.acknowledged + other.acknowledged, self.ended + other.ended, self.barred + other.barred)


class Leases:
    """Everyone who has, or may have, a lease of this process's.

    Args:
        clock: of leases.
        maximum: how many processes may hold leases at once, and how many streams may be open.
        maximum_per_user: the same of one user's processes, so that nobody keeps others from watching; None for as many.
    """

    def __init__(self, clock: LeaseClock, *, maximum: int, maximum_per_user: int | None = None) -> None:
        self._clock = clock
        self._maximum = maximum
        self._maximum_per_user = maximum if maximum_per_user is None else maximum_per_user
        self._holders: dict[HolderKey, Holder] = {}
        self._numbers = itertools.count()

    def enter(self, key: HolderKey) -> Holder:
        """A stream of that process begins.

        Raises:
            ResourceExhausted: TOO_MANY_WATCHERS.
        """
        holder = self._holders.get(key)
        user_id = key[0]
        if len(self._of(user_id)) >= self._maximum_per_user or len(self._holders) >= self._maximum:
            self._forget_those_who_left()
            holder = self._holders.get(key)
        if self._full(holder, self._of(user_id), self._maximum_per_user):
            raise self._too_many(
                f"{self._maximum_per_user} processes of {user_name(user_id)} watch already; stop some, give others a"
                " user of their own, or raise the setting maximum_watchers_per_user"
            )
        if self._full(holder, list(self._holders.values()), self._maximum):
            raise self._too_many(
                f"{self._maximum} relying parties watch already; stop some, or raise the setting maximum_watchers"
            )
        if holder is None:
            holder = self._holders[key] = Holder(key)
        holder.streams += 1
        holder.barred = False
        return holder

    def leave(self, holder: Holder) -> None:
        """A stream of that process ends. Its lease runs on (rule 11)."""
        holder.streams -= 1

    def bar(self, holder: Holder) -> None:
        """The process has lost its own right to watch. Its lease runs on, and nothing is heard from it meanwhile."""
        holder.barred = True

    def grant(self, holder: Holder, received: float, seconds: float) -> None:
        """Records a lease before it is granted; it counts from when the ping was received (rule 1)."""
        holder.lease_until = max(holder.lease_until, received + waited(seconds))

    def acknowledge(self, holder: Holder, revision: int) -> None:
        """The process has applied every change up to that revision."""
        if revision <= holder.acknowledged:
            return
        holder.acknowledged = revision
        while holder.awaited and holder.awaited[0][0] <= revision:
            _, _, wait = heapq.heappop(holder.awaited)
            wait.acknowledged_by(holder)

    def begin_anew(self) -> None:
        """The history has parted from what was acknowledged."""
        for holder in self._holders.values():
            holder.acknowledged = 0

    def running(self) -> int:
        """How many leases run."""
        now = self._clock()
        return sum(holder.lease_until > now for holder in self._holders.values())

    @property
    def streams(self) -> int:
        """How many streams of relying parties are open."""
        return sum(holder.streams for holder in self._holders.values())

    def settled_up_to(self, head: int) -> int:
        """The revision up to which nobody here acts any more on what was so before.

        Args:
            head: the last revision that is published: whoever has no lease now gets one only under that.
        """
        now = self._clock()
        late = [holder.acknowledged for holder in self._holders.values() if holder.lease_until > now]
        return min([head, *late])

    async def settle(self, revision: int) -> Settled:
        """Returns once nobody acts any more on what was so before that revision, which must be published (rule 9).

        What is waited for is each lease as it is recorded now: later ones bind their holders to the revision (rule 10).
        """
        # Before anything is awaited here: who comes later reads a head that includes the revision.
        now = self._clock()
        running = [holder for holder in self._holders.values() if holder.lease_until > now]
        late = {holder: holder.lease_until for holder in running if holder.acknowledged < revision}
        wait = _Wait(len(running) - len(late), late)
        for holder in late:
            heapq.heappush(holder.awaited, (revision, next(self._numbers), wait))
        try:
            await wait.over(self._clock)
        finally:
            for holder in wait.without_answer():
                holder.awaited = [entry for entry in holder.awaited if entry[2] is not wait]
                heapq.heapify(holder.awaited)
        barred = sum(holder.barred for holder in wait.ended)
        if wait.ended:
            _LOG.warning(
                "leases_ran_out",
                revision=revision,
                count=len(wait.ended),
                lost_their_right=barred,
                users=sorted({user_name(holder.key[0]) for holder in wait.ended}),
            )
        return Settled(wait.acknowledged, len(wait.ended), barred)

    def _of(self, user_id: str) -> list[Holder]:
        return [holder for holder in self._holders.values() if holder.key[0] == user_id]

    def _full(self, holder: Holder | None, others: list[Holder], maximum: int) -> bool:
        """Whether one stream more, of that process or of a new one, would be more than so many."""
        return sum(other.streams for other in others) >= maximum or (holder is None and len(others) >= maximum)

    def _too_many(self, fault: str) -> ResourceExhausted:
        """The refusal, until a lease of somebody who has left may have run out."""
        now = self._clock()
        ends = [holder.lease_until - now for holder in self._holders.values() if holder.lease_until > now]
        return ResourceExhausted(
            Reason.TOO_MANY_WATCHERS, fault, retry_after=timedelta(seconds=max(1.0, min(ends, default=0.0)))
        )

    def _forget_those_who_left(self) -> None:
        now = self._clock()
        for key in [key for key, holder in self._holders.items() if not holder.streams and holder.lease_until <= now]:
            del self._holders[key]


class _Wait:
    """One wait for several holders, until each has acknowledged or its lease is over."""

    def __init__(self, acknowledged: int, deadlines: dict[Holder, float]) -> None:
        self.acknowledged = acknowledged
        self.ended: list[Holder] = []
        self._deadlines = deadlines
        self._all_acknowledged = asyncio.Event()

    def acknowledged_by(self, holder: Holder) -> None:
        if self._deadlines.pop(holder, None) is not None:
            self.acknowledged += 1
            if not self._deadlines:
                self._all_acknowledged.set()

    def without_answer(self) -> list[Holder]:
        return [*self._deadlines, *self.ended]

    async def over(self, clock: LeaseClock) -> None:
        while self._deadlines:
            left = min(self._deadlines.values()) - clock()
            if left > 0:
                # Whether it was the one or the other shows in what is left.
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._all_acknowledged.wait(), left)
            now = clock()
            for holder in [holder for holder, deadline in self._deadlines.items() if deadline <= now]:
                del self._deadlines[holder]
                self.ended.append(holder)


def waited(seconds: float) -> float:
    """How long to wait, by one's own clock, for a lease of so many seconds by another's."""
    return seconds * (1 + CLOCK_RATE_BOUND)
