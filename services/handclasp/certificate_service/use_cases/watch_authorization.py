"""Keeps a relying party up to date, for as long as it watches: see `docs/revocation.md`."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Self, TypeAlias

import structlog

from handclasp.certificate_service.domain.changes import Effect, Position, Revision, joined
from handclasp.certificate_service.domain.decisions import PeerFacts
from handclasp.certificate_service.domain.identifiers import (
    access_profile_name,
    certificate_name,
    trust_anchor_name,
    user_name,
)
from handclasp.certificate_service.domain.permissions import Permission
from handclasp.certificate_service.storage.facts import FactsReader
from handclasp.certificate_service.use_cases.access import Access
from handclasp.certificate_service.use_cases.authentication import Authenticator
from handclasp.certificate_service.use_cases.caller import Caller, Clock
from handclasp.certificate_service.watching.feed import ChangeFeed
from handclasp.certificate_service.watching.leases import LeaseClock, Leases
from handclasp.certificate_service.watching.replica import ReplicaLease
from handclasp.errors import HandclaspError, PermissionDenied, Reason, Unauthenticated, Unavailable, invalid_field

_LOG = structlog.stdlib.get_logger(__name__)

_PROCESS_ID = re.compile(r"[0-9a-f]{16,64}", re.ASCII)
_METHOD = "/handclasp.authorization.v1.AuthorizationService/WatchAuthorization"

# Names in one message; a revision is not split, and names at most a few for each of the writes that share a commit.
_NAMES_AT_ONCE = 1_000
# A relying party pings twice a second. One that pings without end is answered only so many times for each message.
_PINGS_WAITING = 16


@dataclass(frozen=True, slots=True)
class Welcome:
    """How to go on. Both in seconds."""

    ping_interval: float
    lease: float


@dataclass(frozen=True, slots=True)
class Reset:
    """Everything that was said before is worth nothing."""

    position: Position
    history_lost: bool


@dataclass(frozen=True, slots=True)
class Changes:
    """What changed, by name, up to a position."""

    position: Position
    effects: Mapping[str, frozenset[Effect]]


@dataclass(frozen=True, slots=True)
class Pong:
    """Renews the lease, for whoever has applied the revision."""

    number: int
    revision: int
    lease: float


Message: TypeAlias = Welcome | Reset | Changes | Pong


@dataclass(frozen=True, slots=True)
class WatchLimits:
    """How relying parties are kept up to date. Times are in seconds.

    Attributes:
        lease: how long a relying party may act on what it was told. Taking away waits as long for one that is silent.
        ping_interval: how often relying parties renew it.
    """

    lease: float
    ping_interval: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchParts:
    """What watches need of the service."""

    feed: ChangeFeed
    leases: Leases
    replica: ReplicaLease
    limits: WatchLimits
    facts: FactsReader
    authenticator: Authenticator
    access: Access
    clock: Clock
    lease_clock: LeaseClock


class WatchAuthorization:
    """Opens watches, and ends them all when the service stops."""

    def __init__(self, parts: WatchParts) -> None:
        self._parts = parts
        self._open: set[Watch] = set()
        self._stopping = False

    def open(self, caller: Caller, process_id: str, applied: Position | None) -> Watch:
        """A watch, registered; to be entered.

        Args:
            process_id: of the relying party's process.
            applied: where it left off; None if it begins.

        Raises:
            InvalidArgument, PermissionDenied
            ResourceExhausted: TOO_MANY_WATCHERS.
            Unavailable: SERVER_STOPPING.
        """
        self._parts.access.require_some(caller, Permission.AUTHORIZE_PEERS)
        if _PROCESS_ID.fullmatch(process_id) is None:
            raise invalid_field("start.process_id", "must be 16 to 64 lower-case hexadecimal digits, made at random")
        if self._stopping:
            raise _stopping()
        return Watch(self._parts, self._open, caller, process_id, applied)

    def stop(self) -> None:
        """Ends all watches, for good; their leases run on."""
        self._stopping = True
        for watch in list(self._open):
            watch.end(_stopping())


class Watch:
    """One stream of a relying party. Made by `WatchAuthorization.open`."""

    def __init__(
        self, parts: WatchParts, all_open: set[Watch], caller: Caller, process_id: str, applied: Position | None
    ) -> None:
        self._parts = parts
        self._all_open = all_open
        self._caller = caller
        self._key = (caller.user_id, process_id)
        self._applied = applied
        self._pings: deque[tuple[int, float]] = deque(maxlen=_PINGS_WAITING)
        self._wake = asyncio.Event()
        self._ended: HandclaspError | None = None
        self._done = False
        self._own_names: frozenset[str] = frozenset()
        self._valid_until: datetime | None = None
        self._position: Position = parts.feed.head
        self._history_number = parts.feed.history_number
        self._least = 0

    def __enter__(self) -> Self:
        parts = self._parts
        # Registered first; only then is the head read (rule 9).
        self._holder = parts.leases.enter(self._key)
        self._forget_feed = parts.feed.watch(self._wake.set)
        self._all_open.add(self)
        self._stand_at(parts.feed.head)
        _LOG.info("watch_begun", user=self._caller.user, process=self._key[1], peer_address=self._caller.address)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._all_open.discard(self)
        self._forget_feed()
        self._parts.leases.leave(self._holder)
        _LOG.info("watch_ended", user=self._caller.user, process=self._key[1], peer_address=self._caller.address)

    def ping(self, number: int, acknowledged: int) -> None:
        """A ping was received, just now."""
        received = self._parts.lease_clock()
        if self._is_of_another_history():
            return
        self.acknowledge(acknowledged)
        # Recorded before it is granted, for whoever publishes something from now on.
        self._parts.leases.grant(self._holder, received, self._parts.limits.lease)
        self._pings.append((number, received))
        self._wake.set()

    def acknowledge(self, revision: int) -> None:
        """The relying party has applied all that it was told up to that revision."""
        if self._is_of_another_history() or revision < self._least:
            return
        # Nobody can have applied what this stream did not say.
        self._parts.leases.acknowledge(self._holder, min(revision, self._position.revision))

    def end(self, error: HandclaspError | None = None) -> None:
        """Ends the messages: with an error, or since the relying party has nothing more to say."""
        self._ended = self._ended or error
        self._done = True
        self._wake.set()

    async def messages(self) -> AsyncIterator[Message]:
        """What the relying party is to be told, in order, until the watch is ended.

        Raises:
            Unauthenticated, PermissionDenied: the relying party's own right is over.
            Unavailable: SERVER_STOPPING.
        """
        if self._applied is not None and self._applied.revision > self._position.revision:
            # Another process that serves the database may have said more than was heard of here so far.
            await self._parts.feed.look()
            self._stand_at(self._parts.feed.head)
        # Not before it is known from where on changes are looked at: one that is in neither would be missed.
        await self._check_right()
        yield Welcome(self._parts.limits.ping_interval, self._parts.limits.lease)
        for message in self._beginning():
            yield message
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._done:
                if self._ended is not None:
                    raise self._ended
                return
            if self._is_of_another_history():
                raise _history_parted()
            # In this order. The pings that are here will be answered after all changes that are due now (rule 3), under
            # a lease of ours that was certain before those were read (rule 19).
            certain_until = self._parts.replica.certain_until
            pings = list(self._pings)
            self._pings.clear()
            head = self._parts.feed.head
            revisions = self._parts.feed.since(self._position)
            if self._concerns_own_right(revisions) or (pings and self._is_over()):
                await self._check_right()
            if revisions is None:
                # As it was before the right was looked at: what came meanwhile is looked at next.
                self._position = head
                self._least = self._position.revision
                yield Reset(self._position, history_lost=False)
            else:
                for part in _parts(revisions):
                    self._position = part.position
                    yield part
            for number, received in pings:
                lease = min(self._parts.limits.lease, certain_until - received)
                if lease > 0:
                    yield Pong(number, self._position.revision, lease)

    def _beginning(self) -> Iterator[Message]:
        applied, head = self._applied, self._position
        if applied is not None and self._parts.feed.since(applied) is not None:
            self._position = applied
            self._least = 0
            self.acknowledge(applied.revision)
            # What it missed is due.
            self._wake.set()
            return
        lost = applied is not None and applied.revision > head.revision
        if lost:
            _LOG.error(
                "history_lost",
                user=self._caller.user,
                applied=applied.revision if applied else 0,
                head=head.revision,
                hint="the database knows less than a relying party was told; was a backup restored?",
            )
        yield Reset(head, history_lost=lost)

    def _stand_at(self, head: Position) -> None:
        self._position = head
        self._history_number = self._parts.feed.history_number
        # Until it has heeded the reset, what it says that it has applied may be of another history, which may have had
        # as many revisions, or more.
        self._least = max(head.revision, 0 if self._applied is None else self._applied.revision + 1)

    def _is_of_another_history(self) -> bool:
        """Whether the history has parted from what this stream said."""
        return self._history_number != self._parts.feed.history_number

    def _concerns_own_right(self, revisions: Sequence[Revision] | None) -> bool:
        if revisions is None:
            return True
        return any(
            change.name in self._own_names and change.effect is not Effect.GIVEN
            for revision in revisions
            for change in revision.changes
        )

    def _is_over(self) -> bool:
        return self._valid_until is not None and self._parts.clock() >= self._valid_until

    async def _check_right(self) -> None:
        """Raises Unauthenticated or PermissionDenied if the relying party may not watch (any more)."""
        parts, caller = self._parts, self._caller
        facts = await parts.facts.peer(caller.fingerprint)
        try:
            fresh = await parts.authenticator.authenticate(
                fingerprint=caller.fingerprint, credentials=None, address=caller.address, method=_METHOD
            )
            parts.access.require_some(fresh, Permission.AUTHORIZE_PEERS)
        except (Unauthenticated, PermissionDenied):
            # Whoever took it away is told so, and not that the relying party was silent.
            parts.leases.bar(self._holder)
            raise
        if facts is not None:
            self._own_names = _names(facts)
            self._valid_until = facts.certificate.trusted_until


def _names(facts: PeerFacts) -> frozenset[str]:
    """All that a right rests on, whichever of the user's grants gives it."""
    names = {certificate_name(facts.certificate.id), user_name(facts.user.id)}
    names |= {access_profile_name(item.profile_id) for item in facts.user.grants}
    if facts.certificate.anchor_id is not None:
        names.add(trust_anchor_name(facts.certificate.anchor_id))
    return frozenset(names)


def _parts(revisions: Sequence[Revision]) -> Iterator[Changes]:
    """The same changes in few messages of a bounded size."""
    part: list[Revision] = []
    names = 0
    for revision in revisions:
        part.append(revision)
        names += len(revision.changes)
        if names >= _NAMES_AT_ONCE:
            yield Changes(revision.position, joined(part))
            part, names = [], 0
    if part:
        yield Changes(part[-1].position, joined(part))


def _history_parted() -> Unavailable:
    return Unavailable(
        Reason.STORAGE_UNAVAILABLE,
        "the database has gone back to what it was before; watch again to learn from where on",
    )


def _stopping() -> Unavailable:
    return Unavailable(Reason.SERVER_STOPPING, "the certificate service is being stopped; watch again in a moment")
