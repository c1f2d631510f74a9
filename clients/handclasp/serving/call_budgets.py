"""What the calls of a server may take up: in all, and by peer.

gRPC's own limit counts a call from its headers on, and starts a unary handler only when the message is there: whoever
sends headers alone holds all of it, without anything here ever running. So handlers are started with the headers
(`interceptor.py`), and a call passes two states:

- *arriving*, until its peer is admitted and its request is here. It takes up next to nothing. If too many arrive, the
  one that has been at it for longest is ended: never that of a caller who sends the request with the headers.
- *running*, while its handler runs. Those are limited in all and by peer; what a peer may have running is never more
  than what is left for everybody else. Some of it is kept for those who must not be held up by others.
"""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from functools import lru_cache
from typing import Any, TypeAlias

import grpc

from handclasp.errors import DeadlineExceeded, HandclaspError, Reason, ResourceExhausted
from handclasp.serving.call import Call, Context
from handclasp.serving.clock import Clock
from handclasp.serving.peer import Peer
from handclasp.serving.reading_turns import ReadingTurns
from handclasp.serving.refusal_pace import RefusalPace

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

_SWEEP_INTERVAL = 0.02
_ENDED_AT_ONCE = 10
"""How many calls a sweep ends: each costs a part of a millisecond, and a thousand may have come at the same time."""
_RETRY_AFTER = timedelta(seconds=1)
_EXHAUSTED_FOR = 5.0
"""Seconds for which a refusal for want of room counts against readiness: probes look every few seconds only."""

_EVERYBODY = "*"

# Of an IPv6 address: what is a subnet's (RFC 4291, section 2.5.4). Whoever has one has all the addresses in it.
_SUBNET_BITS = 64


class CallKind(Enum):
    """By what a running call is counted."""

    ORDINARY = "ordinary"
    RESERVED = "reserved"
    """May use what is kept free, too: relying parties, and calls that take something away."""
    OBSERVING = "observing"
    """Health.Watch and reflection: streams that may stay for ever, counted apart."""
    UNCOUNTED = "uncounted"
    """Short by itself, or limited elsewhere."""


class Budget(Enum):
    """What a call was refused by. The values are label values of metrics."""

    ARRIVING = "arriving"
    REQUEST_TIMEOUT = "request_timeout"
    ANSWER_TIMEOUT = "answer_timeout"
    RUNNING = "running"
    RUNNING_PER_PEER = "running_per_peer"
    OBSERVING = "observing"
    OBSERVING_PER_PEER = "observing_per_peer"
    REQUEST_BYTES = "request_bytes"
    REQUEST_BYTES_PER_PEER = "request_bytes_per_peer"


@dataclass(frozen=True, slots=True, kw_only=True)
class CallLimits:
    """What the calls of one server may take up. Times are in seconds, sizes in bytes.

    Attributes:
        running: how many calls run at once.
        reserved: how many of those only calls of `CallKind.RESERVED` may use.
        running_per_peer: how many of one peer run at once; besides never more than are left for others.
        observing, observing_per_peer: the same for `CallKind.OBSERVING`.
        arriving: how many may have arrived without running yet.
        leaving: how many may have an answer that the client has not taken in yet.
        reading_per_connection: of how many calls of one connection gRPC takes in the message at once.
        request_timeout: how long a request may take to arrive, once its call is admitted.
        answer_timeout: how long a client may take to take in an answer, once its handler has ended.
        refusals_per_second, refusals_per_second_in_all: how many a peer, and all together, are told; further ones are
            held back, for `refusal_delay` at most.
        request_bytes: of all requests that are being read, each counted at its longest, and again of those of running
            calls.
        max_request_length: of one message.
        proxies: networks whose addresses stand for many peers each: no budget by peer there.
    """

    running: int = 1000
    reserved: int = 200
    running_per_peer: int = 400
    observing: int = 100
    observing_per_peer: int = 10
    arriving: int = 4000
    reading_per_connection: int = 16
    leaving: int = 4000
    request_timeout: float = 5.0
    answer_timeout: float = 30.0
    refusals_per_second: int = 100
    refusals_per_second_in_all: int = 500
    refusal_delay: float = 5.0
    request_bytes: int = 256 * 1024 * 1024
    max_request_length: int = 4 * 1024 * 1024
    proxies: tuple[Network, ...] = ()


DEFAULT_LIMITS = CallLimits()


class OpenCall:
    """A call from its headers to the end of its handler, as `CallBudgets` counts it."""

    __slots__ = ("call", "kind", "length", "peer", "since")

    def __init__(self, call: Call) -> None:
        self.call = call
        self.kind: CallKind | None = None
        self.peer: str | None = None
        self.length = 0
        self.since = 0.0


class CallBudgets:
    """The budgets of one server. Everything here is one step of the event loop, but for the wait for a turn to read.

    Args:
        refused: told of each call that is ended from here, for the log.
        clock: monotonic.

    Attributes:
        limits: as they were given.
        refusals: how many calls were refused or ended, by budget.
        running: how many calls run that are ordinary or may use what is reserved.
        observing: how many calls of `CallKind.OBSERVING` run.
        request_bytes: of the requests of all calls that run.
    """

    def __init__(
        self, limits: CallLimits, refused: Callable[[Call, HandclaspError], None], *, clock: Clock = time.monotonic
    ) -> None:
        self.limits = limits
        self.refusals: Counter[Budget] = Counter()
        self.running = 0
        self.observing = 0
        self.request_bytes = 0
        self._refused = refused
        self._clock = clock
        self._admitting: OrderedDict[OpenCall, None] = OrderedDict()
        self._queued: OrderedDict[OpenCall, None] = OrderedDict()
        self._reading: OrderedDict[OpenCall, None] = OrderedDict()
        self._leaving: OrderedDict[asyncio.Task[Any], float] = OrderedDict()
        self._running_by_peer: dict[str, int] = {}
        self._observing_by_peer: dict[str, int] = {}
        self._bytes_by_peer: dict[str, int] = {}
        self._turns = ReadingTurns(
            total=max(1, limits.request_bytes // limits.max_request_length),
            per_connection=limits.reading_per_connection,
            evict=self._evict,
            clock=clock,
        )
        self._pace = RefusalPace(limits.refusals_per_second, limits.refusal_delay, clock)
        self._pace_of_all = RefusalPace(limits.refusals_per_second_in_all, limits.refusal_delay, clock)
        self._ordinary = max(1, limits.running - limits.reserved)
        self._ending: set[asyncio.Task[bool]] = set()
        self._sweeping = False
        self._exhausted_until = clock()

    @property
    def arriving(self) -> int:
        """How many calls have arrived and do not run yet."""
        return len(self._admitting) + len(self._queued) + len(self._reading)

    @property
    def reading(self) -> int:
        """Of how many calls the message is being taken in."""
        return self._turns.taken

    def leaving(self) -> list[asyncio.Task[Any]]:
        """What has an answer each that the client has not taken in yet."""
        return list(self._leaving)

    def exhausted(self) -> str | None:
        """What ordinary callers were refused for want of just now, in a few words; None if they were not."""
        if self._clock() >= self._exhausted_until:
            return None
        return f"room for calls: {self.running} run, {self._ordinary} are the most"

    def refusal_delay(self, peer: Peer) -> float:
        """How many seconds a refusal that this peer is to be told now is held back."""
        return max(self._pace.delay(peer_key(peer, self.limits.proxies)), self._pace_of_all.delay(_EVERYBODY))

    def arrive(self, call: Call) -> OpenCall:
        """The headers of a call have arrived."""
        opened = OpenCall(call)
        self._admitting[opened] = None
        if self.arriving > self.limits.arriving:
            self._end_oldest_arrival()
        if not self._sweeping:
            self._sweep_later()
        return opened

    async def read(self, opened: OpenCall, context: Context) -> bytes | None:
        """The request, as soon as it is there; None if there is none: the client has sent none, or has gone."""
        self._admitting.pop(opened, None)
        call, connection = opened.call, opened.call.peer.connection
        if not self._turns.take_at_once(call, connection):
            opened.since = self._clock()
            self._queued[opened] = None
            await self._turns.take(call, connection)
            self._queued.pop(opened, None)
        opened.since = self._clock()
        self._reading[opened] = None
        try:
            request: Any = await context.read()
        finally:
            self._turns.give_back(call, connection)
        return None if request is grpc.aio.EOF else request

    def run(self, opened: OpenCall, kind: CallKind, length: int = 0) -> None:
        """The call runs from now on.

        Args:
            length: of its request.

        Raises:
            ResourceExhausted: TOO_MANY_CALLS.
        """
        self._reading.pop(opened, None)
        self._admitting.pop(opened, None)  # a stream of requests, whose first is not waited for
        opened.peer = peer = peer_key(opened.call.peer, self.limits.proxies)
        if kind is CallKind.OBSERVING:
            self._require_observing(peer)
        elif kind is not CallKind.UNCOUNTED:
            self._require_running(kind, peer)
        self._require_bytes(peer, length)
        opened.kind, opened.length = kind, length
        self.request_bytes += length
        if peer is not None and length:
            self._bytes_by_peer[peer] = self._bytes_by_peer.get(peer, 0) + length
        if kind is CallKind.OBSERVING:
            self.observing += 1
            if peer is not None:
                self._observing_by_peer[peer] = self._observing_by_peer.get(peer, 0) + 1
        elif kind is not CallKind.UNCOUNTED:
            self.running += 1
            if peer is not None:
                self._running_by_peer[peer] = self._running_by_peer.get(peer, 0) + 1

    def leave(self, opened: OpenCall) -> None:
        """The handler has ended, however far the call had come. To be called in the task that gRPC runs it in, which
        goes on until the client has taken the answer."""
        task = asyncio.current_task()
        if task is not None:
            self._leaving[task] = self._clock()
            task.add_done_callback(self._left)
            if len(self._leaving) > self.limits.leaving:
                self._cut_off()
        self._reading.pop(opened, None)
        self._queued.pop(opened, None)
        self._admitting.pop(opened, None)
        kind, peer = opened.kind, opened.peer
        if kind is None:
            return
        opened.kind = None
        self.request_bytes -= opened.length
        if peer is not None and opened.length:
            _take_off(self._bytes_by_peer, peer, opened.length)
        if kind is CallKind.OBSERVING:
            self.observing -= 1
            if peer is not None:
                _take_off(self._observing_by_peer, peer, 1)
        elif kind is not CallKind.UNCOUNTED:
            self.running -= 1
            if peer is not None:
                _take_off(self._running_by_peer, peer, 1)

    def _require_observing(self, peer: str | None) -> None:
        limits = self.limits
        free = limits.observing - self.observing
        if free <= 0:
            raise self._too_many(Budget.OBSERVING, "this server has as many streams of this kind as it takes")
        if peer is not None and self._observing_by_peer.get(peer, 0) >= min(limits.observing_per_peer, free):
            raise self._too_many(Budget.OBSERVING_PER_PEER, "you have as many streams of this kind here as you may")

    def _require_running(self, kind: CallKind, peer: str | None) -> None:
        free = (self.limits.running if kind is CallKind.RESERVED else self._ordinary) - self.running
        if free <= 0:
            self._exhausted_until = self._clock() + _EXHAUSTED_FOR
            raise self._too_many(Budget.RUNNING, "this server has as many calls running as it takes")
        if peer is not None:
            running = self._running_by_peer.get(peer, 0)
            if running >= free or running >= self.limits.running_per_peer:
                raise self._too_many(
                    Budget.RUNNING_PER_PEER, "you have as many calls running here as you may at this moment"
                )

    def _require_bytes(self, peer: str | None, length: int) -> None:
        free = self.limits.request_bytes - self.request_bytes
        if length > free:
            raise self._too_many(Budget.REQUEST_BYTES, "the calls that run here have too large requests together")
        if peer is not None and length and self._bytes_by_peer.get(peer, 0) + length > free:
            raise self._too_many(
                Budget.REQUEST_BYTES_PER_PEER, "your calls that run here have too large requests together"
            )

    def _too_many(self, budget: Budget, what: str) -> ResourceExhausted:
        self.refusals[budget] += 1
        return ResourceExhausted(
            Reason.TOO_MANY_CALLS, f"{what}; nothing was done, try again in a moment", retry_after=_RETRY_AFTER
        )

    def _evict(self, call: Call) -> None:
        """Ends a call whose request has not come yet, so that another one's can."""
        self._end(call, self._too_many(Budget.ARRIVING, "too many calls wait here to send their request"))

    def _end_oldest_arrival(self) -> None:
        waiting = self._reading or self._queued or self._admitting
        oldest, _ = waiting.popitem(last=False)
        self._evict(oldest.call)

    def _end(self, call: Call, error: HandclaspError) -> None:
        if call.finished or call.ended:
            return
        self._refused(call, error)
        task = asyncio.get_running_loop().create_task(call.end(error))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    def _left(self, task: asyncio.Task[Any]) -> None:
        self._leaving.pop(task, None)

    def _cut_off(self) -> None:
        """Gives up the answer that a client has left untaken for longest."""
        task, _ = self._leaving.popitem(last=False)
        self.refusals[Budget.ANSWER_TIMEOUT] += 1
        task.cancel()

    def _sweep_later(self) -> None:
        self._sweeping = True
        asyncio.get_running_loop().call_later(_SWEEP_INTERVAL, self._sweep)

    def _sweep(self) -> None:
        """Ends calls whose request does not come, or whose answer is not taken. Runs on while there are any."""
        now, timeout = self._clock(), self.limits.request_timeout
        self._end_late(self._reading, now - timeout)
        # Those before it in the line may have had all of their time, and it is to have its own.
        self._end_late(self._queued, now - 2 * timeout)
        self._turns.make_room()
        before = now - self.limits.answer_timeout
        for _ in range(_ENDED_AT_ONCE):
            if not self._leaving or next(iter(self._leaving.values())) > before:
                break
            self._cut_off()
        self._sweeping = False
        if self.arriving or self._leaving:
            self._sweep_later()

    def _end_late(self, waiting: OrderedDict[OpenCall, None], before: float) -> None:
        for _ in range(_ENDED_AT_ONCE):
            oldest = next(iter(waiting), None)
            if oldest is None or oldest.since > before:
                return
            del waiting[oldest]
            self.refusals[Budget.REQUEST_TIMEOUT] += 1
            self._end(oldest.call, self._not_received())

    def _not_received(self) -> DeadlineExceeded:
        return DeadlineExceeded(
            Reason.REQUEST_NOT_RECEIVED,
            f"the request did not arrive within {self.limits.request_timeout:g} s, and nothing was done; call again,"
            " and send it at once",
        )


def peer_key(peer: Peer, proxies: tuple[Network, ...] = ()) -> str | None:
    """By what calls of a peer are counted: its certificate, else its address, of IPv6 the /64. None if the address
    is a proxy's, or is not known."""
    return peer.fingerprint or _address_key(peer.address, proxies)


@lru_cache(maxsize=1024)
def _address_key(address: str, proxies: tuple[Network, ...]) -> str | None:
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return None
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    if any(parsed in network for network in proxies):
        return None
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((parsed, _SUBNET_BITS), strict=False))
    return str(parsed)


def _take_off(counts: dict[str, int], key: str, count: int) -> None:
    left = counts[key] - count
    if left > 0:
        counts[key] = left
    else:
        del counts[key]
