"""Calls that go to another server, of several at which the same is served, if one does not answer.

gRPC balances between the servers of one name (`balancing.py`). Several names cannot share a channel of it: each
server's certificate must have the name by which it is called. So there is a channel for each, and this above them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias, TypeVar

import grpc
from grpc.aio import ClientCallDetails, UnaryUnaryCall, UnaryUnaryClientInterceptor

from handclasp.client.repeatable import identified, is_read, may_be_repeated
from handclasp.client.retries import may_have_been_done, with_doubt
from handclasp.errors import DeadlineExceeded, HandclaspError, Reason, Unauthenticated, Unavailable

SHUNNED_SECONDS = 5.0
"""How long a server that did not answer is asked last."""

LONGEST_ATTEMPT = 5.0
"""Seconds until a call that may be repeated is, at another server."""

ROUNDS = (0.1, 0.3, 1.0, 2.0)
"""Seconds before all are tried again, for a call that may be repeated, if one of them has answered before: a restart,
then, and no wrong address."""

_CONNECTION_DECIDED = (
    grpc.ChannelConnectivity.READY,
    grpc.ChannelConnectivity.TRANSIENT_FAILURE,
    grpc.ChannelConnectivity.SHUTDOWN,
)
_LOST_STATUSES = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)

Request = TypeVar("Request")
Response = TypeVar("Response")
_Method: TypeAlias = Callable[..., UnaryUnaryCall[Any, Any]]


class Rotation:
    """Whose turn it is.

    Args:
        count: of servers.
        spread: whether each call goes to another one; otherwise all go to one, until it does not answer.
    """

    def __init__(self, count: int, *, spread: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._count = count
        self._spread = spread
        self._clock = clock
        self._turn = 0
        self._shunned: dict[int, float] = {}
        self.any_answered = False

    def order(self, channels: Sequence[grpc.aio.Channel]) -> list[int]:
        """The order in which to try the servers."""
        turn = self._turn
        if self._spread:
            self._turn = (turn + 1) % self._count
        now = self._clock()
        out = [
            self._shunned.get(index, now) > now or channel.get_state() is grpc.ChannelConnectivity.TRANSIENT_FAILURE
            for index, channel in enumerate(channels)
        ]
        return sorted(((turn + step) % self._count for step in range(self._count)), key=out.__getitem__)

    def answered(self, index: int) -> None:
        """A server has answered."""
        self.any_answered = True
        self._shunned.pop(index, None)
        if not self._spread:
            self._turn = index

    def failed(self, index: int) -> None:
        """A server has not answered."""
        self._shunned[index] = self._clock() + SHUNNED_SECONDS


class FailoverChannel(grpc.aio.Channel):
    """A channel over channels. Calls with one request and one response go to another server if one does not answer:
    those that may be repeated always, others if nothing was done. Requests that can have a `request_id` are given one,
    so that they may be repeated. Streams go to the first.

    Args:
        channels: one for each server; closed with this one.
        rotation: for as many.
        interceptors: around all attempts of a call.
        rounds: seconds before all are tried again, each time, for a call that may be repeated.
    """

    def __init__(
        self,
        channels: Sequence[grpc.aio.Channel],
        rotation: Rotation,
        interceptors: Sequence[grpc.aio.ClientInterceptor] = (),
        *,
        rounds: Sequence[float] = ROUNDS,
    ) -> None:
        self._channels = channels
        self._failover = _Failover(channels, rotation, rounds)
        # Carries the interceptors, and never connects: `_Failover` makes all calls elsewhere.
        self._front = grpc.aio.insecure_channel("127.0.0.1:9", interceptors=[*interceptors, self._failover])

    def unary_unary(self, method: str, *arguments: Any, **more: Any) -> Any:
        self._failover.methods[method] = [channel.unary_unary(method, *arguments, **more) for channel in self._channels]
        return self._front.unary_unary(method, *arguments, **more)

    def unary_stream(self, *arguments: Any, **more: Any) -> Any:
        return self._channels[0].unary_stream(*arguments, **more)

    def stream_unary(self, *arguments: Any, **more: Any) -> Any:
        return self._channels[0].stream_unary(*arguments, **more)

    def stream_stream(self, *arguments: Any, **more: Any) -> Any:
        return self._channels[0].stream_stream(*arguments, **more)

    async def channel_ready(self) -> None:
        """Returns once there is a connection to one of the servers."""
        await any_ready(self._channels)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self._channels[0].get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._channels[0].wait_for_state_change(last_observed_state)

    async def close(self, grace: float | None = None) -> None:
        await asyncio.gather(*(channel.close(grace) for channel in self._channels))
        await self._front.close()

    async def __aenter__(self) -> FailoverChannel:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class _Failover(UnaryUnaryClientInterceptor):
    def __init__(self, channels: Sequence[grpc.aio.Channel], rotation: Rotation, rounds: Sequence[float]) -> None:
        self._channels = channels
        self._rotation = rotation
        self._rounds = rounds
        self.methods: dict[str, list[_Method]] = {}
        """By method, how to call it at each server."""

    async def intercept_unary_unary(
        self,
        continuation: Callable[[ClientCallDetails, Request], Awaitable[UnaryUnaryCall[Request, Response]]],  # noqa: ARG002 see FailoverChannel
        client_call_details: ClientCallDetails,
        request: Request,
    ) -> Response | UnaryUnaryCall[Request, Response]:
        details = client_call_details
        method = _text(details.method)
        request = identified(request)
        repeatable = may_be_repeated(method, request)
        deadline = None if details.timeout is None else time.monotonic() + details.timeout
        rounds = iter(self._rounds)
        lost = _Lost(counts=not is_read(method))
        hurried = repeatable and len(self._channels) > 1
        while True:
            order = self._rotation.order(self._channels)
            for index, others in zip(order, range(len(order) - 1, -1, -1), strict=True):
                if others and not repeatable and not await self._connects(index, deadline):
                    # Whatever was sent to it later than this could not go to another one any more.
                    self._rotation.failed(index)
                    continue
                try:
                    call = self.methods[method][index](
                        request,
                        timeout=_attempt(deadline, hurried=hurried),
                        metadata=details.metadata,
                        credentials=details.credentials,
                        wait_for_ready=details.wait_for_ready,
                    )
                    await call
                except (grpc.aio.AioRpcError, HandclaspError, asyncio.CancelledError) as error:
                    last = lost.heed(error)
                    if not _is_lost(error):
                        raise last from error
                    self._rotation.failed(index)
                    if not (repeatable or _nothing_was_done(error)) or _left(deadline) <= 0:
                        raise last from error
                except grpc.aio.UsageError:
                    # The channel was closed before the attempt; a call that is under way then ends like this.
                    last = asyncio.CancelledError()
                else:
                    self._rotation.answered(index)
                    return call
            pause = next(rounds, None)
            if not (repeatable and self._rotation.any_answered) or pause is None or pause >= _left(deadline):
                raise last
            await asyncio.sleep(pause)

    async def _connects(self, index: int, deadline: float | None) -> bool:
        """Whether it is known by now what comes of a connection to that server: it is there, or it failed."""
        channel = self._channels[index]
        try:
            async with asyncio.timeout(_attempt(deadline, hurried=True)):
                while (state := channel.get_state(try_to_connect=True)) not in _CONNECTION_DECIDED:
                    await channel.wait_for_state_change(state)
        except TimeoutError:
            return False
        except grpc.aio.UsageError:
            pass  # It was closed, which the call finds as well.
        return True


async def any_ready(channels: Sequence[grpc.aio.Channel]) -> None:
    """Returns once there is a connection on one of the channels."""
    attempts = [asyncio.ensure_future(channel.channel_ready()) for channel in channels]
    try:
        await asyncio.wait(attempts, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for attempt in attempts:
            attempt.cancel()


def _text(method: str | bytes) -> str:
    # grpcio has bytes where its annotations say str.
    return method.decode() if isinstance(method, bytes) else method


def _attempt(deadline: float | None, *, hurried: bool) -> float | None:
    """How many seconds one attempt may take, with or without somebody else to go to."""
    if deadline is None:
        return LONGEST_ATTEMPT if hurried else None
    # Half of what is left: the rest is for the others.
    left = _left(deadline)
    return min(left / 2, LONGEST_ATTEMPT) if hurried else left


def _left(deadline: float | None) -> float:
    return float("inf") if deadline is None else deadline - time.monotonic()


def _is_lost(error: BaseException) -> bool:
    """Whether there was no answer. Else the server has refused, and another one would as well."""
    if isinstance(error, grpc.aio.AioRpcError):
        return error.code() in _LOST_STATUSES
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        # The channel was closed, to be replaced: it was not the caller who left.
        return task is not None and not task.cancelling()
    if isinstance(error, Unauthenticated):
        # Not what a server says, but what is thought here of its certificate.
        return error.reason == Reason.SERVER_CERTIFICATE_REFUSED
    return isinstance(error, Unavailable | DeadlineExceeded)


def _nothing_was_done(error: BaseException) -> bool:
    return isinstance(error, HandclaspError) and not may_have_been_done(error)


class _Lost:
    """Remembers the first attempt whose answer was lost: what comes after it must not sound as if nothing was done.

    Args:
        counts: whether it matters.
    """

    def __init__(self, *, counts: bool) -> None:
        self._counts = counts
        self._first: HandclaspError | None = None

    def heed(self, error: BaseException) -> BaseException:
        """What to raise for that error, if it is to be the last."""
        if not self._counts or not isinstance(error, HandclaspError):
            return error
        said = with_doubt(error, self._first)
        if self._first is None and may_have_been_done(error):
            self._first = error
        return said
