"""The change feed: the newest revisions in memory, in their order and without gaps, for all who watch."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog
from sqlalchemy.exc import SQLAlchemyError

from handclasp.certificate_service.domain.changes import BEGINNING, Position, Revision
from handclasp.certificate_service.storage.notifications import number
from handclasp.certificate_service.storage.revisions import KEPT
from handclasp.errors import Reason, Unavailable

_LOG = structlog.stdlib.get_logger(__name__)

_BATCH = 1_000
_RETRY_SECONDS = 0.25


class History(Protocol):
    """Where revisions are stored."""

    async def history(self, *, after: int, limit: int) -> list[Revision]:
        """Revisions above that one, oldest first."""

    async def newest_history(self, *, limit: int) -> tuple[Position, list[Revision]]:
        """Where the history is, and its newest revisions."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    """Who waits for which position, and how many doubts there were by then. `read` is set if only what is read settles
    it, and nothing that is published meanwhile."""

    position: Position
    doubts: int
    future: asyncio.Future[None]
    read: bool


class ChangeFeed:
    """Told of each commit; wakes those who watch.

    A commit whose outcome is not known, or a revision that is not the next one, makes it read what it missed. If the
    database then does not know what was published, it has gone back: a backup was restored, or a standby took over that
    had not got the last commits. From there on this follows another history.

    Args:
        capacity: how many revisions are kept in memory. Whoever is further behind begins anew.
    """

    def __init__(self, history: History, *, capacity: int = KEPT) -> None:
        self._history = history
        self._kept: deque[Revision] = deque(maxlen=capacity)
        self._head = BEGINNING
        self._watching: set[Callable[[], None]] = set()
        self._parted: list[Callable[[], None]] = []
        self._reached: list[_Waiting] = []
        self._doubts = 0
        self._catching_up: asyncio.Task[None] | None = None
        self._history_number = 0

    @property
    def history_number(self) -> int:
        """Another one once the history has parted from what was published. Of what was acknowledged until then, nothing
        counts."""
        return self._history_number

    def on_parted(self, parted: Callable[[], None]) -> None:
        """Has `parted` called whenever the history has parted from what was published."""
        self._parted.append(parted)

    @property
    def head(self) -> Position:
        """The last revision that is published: whoever is granted a lease from now on is held to it."""
        return self._head

    @property
    def known_head(self) -> int | None:
        """The last revision that this process committed, with all before it; None while that is in doubt."""
        return None if self._catching_up is not None else self._head.revision

    async def open(self) -> None:
        """Reads where the history is. Raises SQLAlchemyError."""
        await self._begin_anew()

    async def close(self) -> None:
        """Stops reading what was missed."""
        if self._catching_up is not None:
            self._catching_up.cancel()
            await asyncio.gather(self._catching_up, return_exceptions=True)

    def committed(self, revision: Revision) -> None:
        """Publishes a revision that was just committed."""
        if self._follows(revision):
            self._publish(revision)
        elif not self.holds(revision.position):
            self.in_doubt()

    def heard(self, text: str) -> None:
        """Another process, or this one, has said that it committed a revision."""
        # Whoever said it: it only has the history read.
        revision = number(text)
        if revision is not None and revision > self._head.revision:
            self.in_doubt()

    def in_doubt(self) -> None:
        """Has the history read: something may have been committed that nobody told of."""
        self._doubts += 1
        if self._catching_up is None:
            self._catching_up = asyncio.create_task(self._catch_up(), name="change feed")

    async def reached(self, position: Position, *, least: int = 0) -> None:
        """Returns once that position, which is committed, is published.

        Args:
            least: a revision that was published before the position was found to be the last one. If that is below, the
                database has gone back, although the position itself was published long ago.

        Raises:
            Unavailable: the database does not know it any more.
        """
        below = position.revision < least
        if self.holds(position) and not below:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.in_doubt()
        self._reached.append(_Waiting(position, self._doubts, future, read=below))
        await future

    async def look(self) -> None:
        """Publishes all that is committed by now. Raises SQLAlchemyError, and as `reached`."""
        published = self._head.revision
        head, _ = await self._history.newest_history(limit=1)
        await self.reached(head, least=published)

    def since(self, position: Position) -> Sequence[Revision] | None:
        """The revisions after that position; None if it is too old, or not one of this history."""
        if position == self._head:
            return ()
        behind = self._head.revision - position.revision
        # The position's own revision is looked at, too: another mark means another history.
        newest = list(itertools.islice(reversed(self._kept), min(max(behind + 1, 0), len(self._kept))))[::-1]
        if 0 < behind < len(newest) and newest[0].position == position:
            return newest[1:]
        # Before the beginning there is nothing, so there is no mark to look at.
        return newest if position == BEGINNING and behind == len(newest) else None

    def watch(self, wake: Callable[[], None]) -> Callable[[], None]:
        """Has `wake` called after each publication, until what is returned is called."""
        self._watching.add(wake)
        return lambda: self._watching.discard(wake)

    def holds(self, position: Position) -> bool:
        """Whether it is certain that the position was published, and is of the same history."""
        behind = self._head.revision - position.revision
        if behind == 0:
            return position == self._head
        return 0 < behind < len(self._kept) and self._kept[-1 - behind].position == position

    def _follows(self, revision: Revision) -> bool:
        """Whether it is the next one, and not of another history that has as many."""
        return revision.position.revision == self._head.revision + 1 and revision.previous_mark in (
            None,
            self._head.mark,
        )

    def _publish(self, revision: Revision) -> None:
        self._kept.append(revision)
        self._head = revision.position
        self._wake()

    def _wake(self) -> None:
        for wake in self._watching:
            wake()
        if self._reached:
            waiting, self._reached = self._reached, []
            for one in waiting:
                if one.future.done():
                    continue
                if self.holds(one.position) and not one.read:
                    one.future.set_result(None)
                else:
                    self._reached.append(one)

    def _settle_waiting(self, settled: int) -> None:
        """Tells those who still wait, of those for whom all that is committed was read since they came.

        Args:
            settled: so many doubts there were when that was read. There may be more by now, and without an end.
        """
        oldest = self._kept[0].position.revision if self._kept else self._head.revision
        waiting, self._reached = self._reached, []
        for one in waiting:
            if one.future.done():
                continue
            if one.doubts > settled:
                self._reached.append(one)
            elif self.holds(one.position) or one.position.revision < oldest:
                # The latter is not kept any more; that the history is the same one was looked at just now.
                one.future.set_result(None)
            else:
                one.future.set_exception(_gone())

    async def _catch_up(self) -> None:
        try:
            settled = None
            while settled != self._doubts:
                doubts = self._doubts
                if await self._attempt(self._read_missed):
                    settled = doubts
                    self._settle_waiting(settled)
                else:
                    await asyncio.sleep(_RETRY_SECONDS)
        finally:
            self._catching_up = None

    async def _attempt(self, work: Callable[[], Awaitable[None]]) -> bool:
        try:
            await work()
        except SQLAlchemyError as error:
            _LOG.warning("history_not_read", error=type(error).__name__)
            return False
        except Exception:  # noqa: BLE001 - nobody awaits this: whoever waits for what it reads would do so for ever
            _LOG.exception("history_not_read")
            return False
        return True

    async def _read_missed(self) -> None:
        while True:
            head = self._head
            # The last one that is known, too: whether it is still there.
            found = await self._history.history(after=head.revision - 1, limit=_BATCH)
            if head.revision and (not found or found[0].position != head):
                await self._begin_anew()
                return
            for revision in found:
                # Meanwhile others may have been published by whoever committed them.
                if self._follows(revision):
                    self._publish(revision)
                elif revision.position.revision > self._head.revision:
                    # What lies between is not kept any more.
                    await self._begin_anew()
                    return
            if len(found) < _BATCH:
                return

    async def _begin_anew(self) -> None:
        before = self._head
        head, newest = await self._history.newest_history(limit=self._kept.maxlen or KEPT)
        if head.revision >= before.revision and self.holds(head):
            # Nothing is missing; meanwhile more may have been published by whoever committed it.
            return
        self._kept.clear()
        self._kept.extend(newest)
        self._head = head
        # If so much was missed that it cannot be told, the worse is assumed.
        if before != BEGINNING and not self.holds(before):
            _LOG.error(
                "history_lost",
                published=before.revision,
                head=head.revision,
                hint="the database knows less than was told, or much more; did a standby take over, or was a backup"
                " restored?",
            )
            self._history_number += 1
            for parted in self._parted:
                parted()
        self._wake()


def _gone() -> Unavailable:
    return Unavailable(
        Reason.STORAGE_UNAVAILABLE,
        "the database has gone back to what it was before, and what was done is lost; look, and do it again",
    )
