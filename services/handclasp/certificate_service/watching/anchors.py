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
        self._wanted = 0
        self._done = 0
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
                if self._wanted > self._done:
                    await self._catch_up()
        finally:
            stop()

    def settled_up_to(self, head: int) -> int:
        """The revision up to which the listeners heed all anchors.

        Args:
            head: the last revision that is published.
        """
        self._look()
        return head if self._wanted <= self._done else min(head, self._wanted - 1)

    async def settle(self, revision: int) -> Settled:
        """Returns once the listeners heed all anchors up to that revision, which is published."""
        self._look()
        wanted = min(self._wanted, revision)
        self._wake.set()
        try:
            async with asyncio.timeout(self._patience), self._progress:
                await self._progress.wait_for(lambda: self._done >= wanted)
        except TimeoutError:
            _LOG.warning("listeners_late", revision=revision, hint="new handshakes heed the anchors once they are read")
        return Settled()

    def _look(self) -> None:
        revisions = self._feed.since(self._position)
        self._position = self._feed.head
        if revisions is None:
            # Anything may have happened.
            self._wanted = self._position.revision
            # Perhaps that of another history, which has not come as far.
            self._done = min(self._done, self._wanted - 1)
            return
        for revision in revisions:
            if any(change.name.startswith(_IN_THE_BUNDLE) for change in revision.changes):
                self._wanted = revision.position.revision

    async def _catch_up(self) -> None:
        # Read after that revision was committed, so with it.
        wanted = self._wanted
        try:
            await self._reload()
        except SQLAlchemyError as error:
            _LOG.warning("anchors_not_read", error=type(error).__name__, retry_in=_RETRY_SECONDS)
            await asyncio.sleep(_RETRY_SECONDS)
            self._wake.set()
            return
        async with self._progress:
            self._done = wanted
            self._progress.notify_all()
