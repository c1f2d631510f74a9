"""Has this process's own listeners heed each change of the trust bundle, whichever process made it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog
from sqlalchemy.exc import SQLAlchemyError

from handclasp.certificate_service.domain.changes import Position
from handclasp.certificate_service.watching.feed import ChangeFeed
from handclasp.certificate_service.watching.leases import Settled

_LOG = structlog.stdlib.get_logger(__name__)

# What is in the bundle: outside CAs, and those of replicas.
_IN_THE_BUNDLE = ("trustAnchors/", "authorities/")
_RETRY_SECONDS = 0.5


class AnchorsFollower:
    """Follows the feed; a source of answers for the barrier, since a change of an anchor is in force once the next
    handshake heeds it.

    Args:
        reload: has the listeners use the anchors as they are stored now. May raise SQLAlchemyError.
        patience: how many seconds a barrier waits at most: decisions heed the change in any case.
    """

    def __init__(self, feed: ChangeFeed, reload: Callable[[], Awaitable[None]], *, patience: float) -> None:
        self._feed = feed
        self._reload = reload
        self._patience = patience
        self._position: Position = feed.head
        self._unheeded: list[int] = []
        """The revisions of changes that the listeners do not heed yet, in their order."""
        self._progress = asyncio.Condition()
        self._wake = asyncio.Event()

    async def run(self) -> None:
        """Follows until cancelled."""
        stop = self._feed.watch(self._wake.set)
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                self._look()
                if self._unheeded:
                    await self._catch_up()
        finally:
            stop()

    def settled_up_to(self, head: int) -> int:
        """The revision up to which the listeners heed all anchors.

        Args:
            head: the last revision that is published.
        """
        self._look()
        return min(head, self._unheeded[0] - 1) if self._unheeded else head

    async def settle(self, revision: int) -> Settled:
        """Returns once the listeners heed all anchors up to that revision, which is published."""
        self._look()
        self._wake.set()
        try:
            async with asyncio.timeout(self._patience), self._progress:
                await self._progress.wait_for(lambda: not self._unheeded or self._unheeded[0] > revision)
        except TimeoutError:
            _LOG.warning("listeners_late", revision=revision, hint="new handshakes heed the anchors once they are read")
        return Settled()

    def _look(self) -> None:
        revisions = self._feed.since(self._position)
        self._position = self._feed.head
        if revisions is None:
            # Anything may have happened, and if the history has parted also at revisions that were looked at.
            self._unheeded = [1]
            return
        for revision in revisions:
            if any(change.name.startswith(_IN_THE_BUNDLE) for change in revision.changes):
                self._unheeded.append(revision.position.revision)

    async def _catch_up(self) -> None:
        # Read after those were committed, so with them.
        unheeded = self._unheeded
        last = unheeded[-1]
        try:
            await self._reload()
        except SQLAlchemyError as error:
            _LOG.warning("anchors_not_read", error=type(error).__name__, retry_in=_RETRY_SECONDS)
            await asyncio.sleep(_RETRY_SECONDS)
            self._wake.set()
            return
        if self._unheeded is not unheeded:
            # Meanwhile it was lost what happened when, so perhaps it happened after the bundle was read.
            self._wake.set()
            return
        async with self._progress:
            self._unheeded = [one for one in self._unheeded if one > last]
            self._progress.notify_all()
