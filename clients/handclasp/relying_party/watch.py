"""Holds the watch at the certificate service open: renews the lease, applies changes, acknowledges them.

docs/revocation.md has the rules.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any, Protocol

import grpc
import structlog

from handclasp.authorization.v1 import authorization_service_pb2 as messages
from handclasp.relying_party.acknowledging import Acknowledgement
from handclasp.relying_party.decisions import Decisions
from handclasp.relying_party.faults import OWN_IDENTITY_REFUSED, described, log_refused_identity
from handclasp.relying_party.knowledge import Change, Knowledge, Position
from handclasp.relying_party.link import Link
from handclasp.relying_party.messages import from_position, to_change, to_position

FIRST_RETRY = 0.05
LAST_RETRY = 1.0
"""Seconds between streams that do not come about, at any of the addresses: doubled from the first to the last. One that
breaks after it was good is opened again at once."""

WELCOME_TIMEOUT = 5.0
"""Seconds until a stream is welcomed, connecting included. Less at first, if there is another address to go to."""

LOG_INTERVAL = 60.0
"""Seconds until a fault that stays the same is logged again."""

_SHORTEST_PING_INTERVAL = 0.01  # seconds; a service that says nought must not have us do nothing else

_LOG = structlog.stdlib.get_logger(__name__)


class Follower(Protocol):
    """Whoever heeds changes beside the decisions. Called within the step in which they are applied; must not raise."""

    def welcomed(self) -> None:
        """A stream begins."""

    def changed(self, position: Position, changes: Sequence[Change]) -> bool:
        """Whether the acknowledgement is to wait for this follower."""

    def was_reset(self) -> bool:
        """Everything was forgotten. Whether the acknowledgement is to wait."""


class _HistoryLostError(Exception):
    """The service knows less than what was applied."""


class Watch:
    """The stream, opened again whenever it ends.

    Args:
        link: may be replaced meanwhile; `restart` then goes over to the new one.
        decisions: forgotten on a reset.
    """

    def __init__(self, link: Link, knowledge: Knowledge, decisions: Decisions) -> None:
        self._link = link
        self._knowledge = knowledge
        self._decisions = decisions
        self._followers: list[Follower] = []
        self._acknowledgement = Acknowledgement()
        self._to_write = asyncio.Event()
        self._lease_gained = asyncio.Event()
        self._had_lease = False
        self._good = False
        self._failures = 0
        """How many streams in a row did not come about."""
        self._stream: asyncio.Task[None] | None = None
        self._logged, self._logged_at = "", 0.0
        self.lease = 0.0
        """How long leases mostly are, in seconds, as the stream's welcome said. 0 before there was one."""

    def follow(self, follower: Follower) -> None:
        """Has somebody told of changes from now on."""
        self._followers.append(follower)

    async def run(self) -> None:
        """Runs until it is cancelled."""
        try:
            while True:
                while self._acknowledgement.held:
                    # Not for long: followers do not have it wait for more than half a lease.
                    self._to_write.clear()
                    await self._to_write.wait()
                self._good = False
                self._stream = asyncio.create_task(self._watch(), name="watch stream")
                # Not awaited itself: that it was cancelled must not look as if this here were.
                await asyncio.wait({self._stream})
                longer = self._heed_end(self._stream)
                self._failures = 0 if self._good else self._failures + 1
                await asyncio.sleep(max(self._delay(), longer) * random.uniform(0.75, 1.25))  # noqa: S311 no secret
        finally:
            if self._stream is not None:
                self._stream.cancel()
                await asyncio.wait({self._stream})

    def restart(self) -> None:
        """Ends the stream and begins another one at once, over what the link is now."""
        if self._stream is not None:
            self._good = True
            self._stream.cancel()

    async def wait_for_lease(self, timeout: float) -> bool:
        """Returns as soon as a lease runs; False if there is none after that many seconds."""
        try:
            async with asyncio.timeout(timeout):
                while not self._knowledge.lease_runs():
                    self._lease_gained.clear()
                    await self._lease_gained.wait()
        except TimeoutError:
            return False
        return True

    def covered(self, position: Position | None, *, all_of_it: bool) -> None:
        """A follower for which the acknowledgement waited is done, up to a position or with all of it."""
        self._acknowledgement.covered(position, all_of_it=all_of_it)
        self._to_write.set()

    def log_lease(self) -> None:
        """Logs once if the lease has run out. Nothing depends on it."""
        if self._had_lease and not self._knowledge.lease_runs():
            self._had_lease = False
            _LOG.warning("lease_lost", hint="nothing is allowed until the certificate service grants one again")

    def _delay(self) -> float:
        """Seconds until the next stream: none before all addresses have been tried."""
        rounds, within = divmod(self._failures, self._link.size)
        return 0.0 if within or not rounds else _doubled(FIRST_RETRY, rounds - 1, LAST_RETRY)

    def _patience(self, *, welcomed: bool) -> float:
        """Seconds without a word until a stream is given up. If there is another address to go to, early enough that
        the lease can be renewed there."""
        if not self.lease:
            return WELCOME_TIMEOUT
        if self._link.size == 1:
            return self.lease if welcomed else WELCOME_TIMEOUT
        if welcomed:
            return self.lease / 2
        # Longer with each round: on a slow day, none of them would ever be quick enough.
        return _doubled(self.lease / 4, self._failures // self._link.size, WELCOME_TIMEOUT)

    async def _watch(self) -> None:
        """One stream.

        Raises:
            grpc.aio.AioRpcError: the service ended it.
            TimeoutError: it has gone quiet.
        """
        call = self._link.authorization.WatchAuthorization()
        writing: asyncio.Task[None] | None = None
        try:
            async with asyncio.timeout(self._patience(welcomed=False)) as quiet:
                start = messages.WatchAuthorizationRequest.Start(
                    process_id=self._knowledge.process_id, applied=from_position(self._acknowledgement.position)
                )
                await call.write(messages.WatchAuthorizationRequest(start=start))
                message: Any
                while (message := await call.read()) is not grpc.aio.EOF:
                    kind = message.WhichOneof("message")
                    if kind == "welcome":
                        self._knowledge.begin_stream()
                        self.lease = message.welcome.lease.ToTimedelta().total_seconds()
                        interval = message.welcome.ping_interval.ToTimedelta().total_seconds()
                        _LOG.info("watch_welcomed", address=self._link.watched)
                        for follower in self._followers:
                            follower.welcomed()
                        if writing is None:
                            writing = asyncio.create_task(self._write(call, interval), name="watch pings")
                    elif kind == "pong":
                        if not self._take_pong(message.pong):
                            continue
                    else:
                        self._heed(kind, message)
                        continue
                    quiet.reschedule(asyncio.get_running_loop().time() + self._patience(welcomed=True))
        finally:
            call.cancel()
            if writing is not None:
                writing.cancel()

    def _heed(self, kind: str | None, message: messages.WatchAuthorizationResponse) -> None:
        """Applies what a message says, in one step, and has it acknowledged after that (rule 4)."""
        if kind == "changes":
            position = to_position(message.changes.position)
            changes = [to_change(change) for change in message.changes.changes]
            self._knowledge.apply(position, changes)
            holds = [follower.changed(position, changes) for follower in self._followers]
        elif kind == "reset":
            _LOG.info("knowledge_reset", history_lost=message.reset.history_lost)
            self._decisions.forget()
            position = to_position(message.reset.position)
            if message.reset.history_lost or position.revision < self._knowledge.revision:
                self._knowledge.lose_history()
                self._acknowledgement = Acknowledgement()
                raise _HistoryLostError
            self._knowledge.reset(position)
            holds = [follower.was_reset() for follower in self._followers]
        else:
            return  # Of a newer service: what it takes to be safe is in the kinds above.
        if self._knowledge.applied is not None:
            self._acknowledgement.applied(self._knowledge.applied, hold=any(holds))
            self._to_write.set()

    def _take_pong(self, pong: messages.WatchAuthorizationResponse.Pong) -> bool:
        """Whether the pong was worth something."""
        # It may be shorter than usual, if the service is less certain of itself just now.
        lease = pong.lease.ToTimedelta().total_seconds()
        if not self._knowledge.pong(pong.number, pong.revision, lease):
            return False
        self._good = True
        self._lease_gained.set()
        if not self._had_lease and self._knowledge.lease_runs():
            self._had_lease = True
            _LOG.info("lease_held", lease=lease, revision=self._knowledge.revision, address=self._link.watched)
        return True

    async def _write(self, call: Any, interval: float) -> None:
        """Pings, the first one at once, and acknowledges: the one place that writes, since gRPC takes one at a time."""
        interval = max(interval, _SHORTEST_PING_INTERVAL)
        loop = asyncio.get_running_loop()
        due = loop.time()
        acknowledged = self._acknowledgement.revision
        try:
            while True:
                if loop.time() >= due:
                    due = loop.time() + interval
                    # The clock is read in there, before anything is written (rule 1).
                    number = self._knowledge.ping()
                    acknowledged = self._acknowledgement.revision
                    ping = messages.WatchAuthorizationRequest.Ping(number=number, acknowledged_revision=acknowledged)
                    await call.write(messages.WatchAuthorizationRequest(ping=ping))
                elif self._acknowledgement.revision > acknowledged:
                    acknowledged = self._acknowledgement.revision
                    said = messages.WatchAuthorizationRequest.Acknowledgement(revision=acknowledged)
                    await call.write(messages.WatchAuthorizationRequest(acknowledgement=said))
                else:
                    self._to_write.clear()
                    try:
                        async with asyncio.timeout_at(due):
                            await self._to_write.wait()
                    except TimeoutError:
                        pass
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return  # The stream is over; whoever reads from it sees why.

    def _is_news(self, fault: str) -> bool:
        """Whether to log a fault: during an outage it would be the same one each second."""
        now = asyncio.get_running_loop().time()
        if fault == self._logged and now < self._logged_at + LOG_INTERVAL and not self._good:
            return False
        self._logged, self._logged_at = fault, now
        return True

    def _heed_end(self, stream: asyncio.Task[None]) -> float:
        """Logs why a stream ended, and does what follows. Returns how many seconds to wait at least."""
        if stream.cancelled():
            return 0.0  # By `restart`, or because the channel was closed.
        error = stream.exception()
        if isinstance(error, _HistoryLostError):
            self._good = True
            return 0.0
        if isinstance(error, grpc.aio.AioRpcError) and error.code() in OWN_IDENTITY_REFUSED:
            self._knowledge.end_lease()
            if self._is_news(error.code().name):
                log_refused_identity(error)
            # The fault may be that one's, such as a clock that is wrong.
            self._link.go_elsewhere()
            return LAST_RETRY
        if isinstance(error, TimeoutError):
            self._link.reconnect()
            if self._is_news("quiet"):
                _LOG.warning(
                    "watch_quiet",
                    address=self._link.watched,
                    hint="the connection to the certificate service is given up for another one",
                )
        elif isinstance(error, grpc.aio.AioRpcError):
            if self._is_news(error.code().name):
                _LOG.warning(
                    "watch_ended", address=self._link.watched, fault=described(error), hint="another one is opened"
                )
        elif error is not None:
            _LOG.error("watch_failed", exc_info=error)
        self._link.go_elsewhere()
        return 0.0


def _doubled(first: float, times: int, most: float) -> float:
    return min(first * 2.0 ** min(times, 20), most)
