"""Calls that go to another server, of several at which the same is served, if one does not answer.

gRPC balances between the servers of one name (`balancing.py`). Several names cannot share a channel of it: each
server's certificate must have the name by which it is called. So there is a channel for each, and this above them.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias, TypeVar, cast

import grpc
from grpc.aio import ClientCallDetails, UnaryUnaryCall, UnaryUnaryClientInterceptor

from handclasp.client.attempts import FAILURES, LONGEST_ATTEMPT, Attempts, Method
from handclasp.client.liveness import QUIET, Liveness
from handclasp.client.repeatable import identified, may_be_doubled

SHUNNED_SECONDS = 5.0
"""How long a server that did not answer is asked last."""

ROUNDS = (0.1, 0.3, 1.0, 2.0)
"""Seconds before all are tried again, for a call that may be repeated, if one of them has answered before: a restart,
then, and no wrong address."""

_CONNECTION_DECIDED = (
    grpc.ChannelConnectivity.READY,
    grpc.ChannelConnectivity.TRANSIENT_FAILURE,
    grpc.ChannelConnectivity.SHUTDOWN,
)

Request = TypeVar("Request")
Response = TypeVar("Response")
_Attempt: TypeAlias = "asyncio.Future[UnaryUnaryCall[Any, Any]]"


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
    those that may be repeated always, others if nothing was done. Reads, and calls that only take away, do so while the
    first attempt goes on; all others are sent only to a server that has answered something just now. Requests that can
    have a `request_id` are given one, so that they may be repeated. Streams go to the first.

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
        self._liveness = Liveness(channels)
        self._failover = _Failover(channels, rotation, rounds, self._liveness)
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
        await self._liveness.close()
        await asyncio.gather(*(channel.close(grace) for channel in self._channels))
        await self._front.close()

    async def __aenter__(self) -> FailoverChannel:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class _Failover(UnaryUnaryClientInterceptor):
    def __init__(
        self, channels: Sequence[grpc.aio.Channel], rotation: Rotation, rounds: Sequence[float], liveness: Liveness
    ) -> None:
        self._channels = channels
        self._rotation = rotation
        self._rounds = rounds
        self._liveness = liveness
        self.methods: dict[str, list[Method]] = {}
        """By method, how to call it at each server."""

    async def intercept_unary_unary(
        self,
        continuation: Callable[[ClientCallDetails, Request], Awaitable[UnaryUnaryCall[Request, Response]]],  # noqa: ARG002 see FailoverChannel
        client_call_details: ClientCallDetails,
        request: Request,
    ) -> Response | UnaryUnaryCall[Request, Response]:
        method = _text(client_call_details.method)
        attempts = Attempts(method, self.methods[method], client_call_details, identified(request))
        several = len(self._channels) > 1
        ask_all = self._side_by_side if several and may_be_doubled(method) else self._one_after_the_other
        rounds = iter(self._rounds)
        while True:
            answer = await ask_all(attempts)
            if answer is not None:
                return cast("Response | UnaryUnaryCall[Request, Response]", answer)
            pause = next(rounds, None)
            if not (attempts.repeatable and self._rotation.any_answered) or pause is None or pause >= attempts.left:
                raise attempts.failure
            await asyncio.sleep(pause)

    async def _one_after_the_other(self, attempts: Attempts) -> Any:
        """The answer of the first server that answers; None if none does."""
        order = self._rotation.order(self._channels)
        for index in order:
            if index != order[-1] and not await self._is_there(index, attempts):
                # Whatever was sent to it later than this might not go to another one any more.
                self._rotation.failed(index)
                continue
            try:
                call = await attempts.begin(index, hurried=attempts.repeatable and len(order) > 1)
            except FAILURES as error:
                answer = self._lost(attempts, index, error)
                if answer is not None:
                    return answer
            else:
                self._answered(index)
                return call
        return None

    async def _side_by_side(self, attempts: Attempts) -> Any:
        """The first answer of any server; None if there is none. Each is asked as soon as the one before it is lost, or
        quiet; that one may still answer."""
        order = self._rotation.order(self._channels)
        under_way: dict[_Attempt, int] = {}
        try:
            for index in order:
                latest = asyncio.ensure_future(attempts.begin(index))
                under_way[latest] = index
                answer = await self._first_answer(attempts, under_way, latest, last=index == order[-1])
                if answer is not None:
                    return answer
        finally:
            for attempt in under_way:
                attempt.cancel()
        return None

    async def _first_answer(
        self, attempts: Attempts, under_way: dict[_Attempt, int], latest: _Attempt, *, last: bool
    ) -> Any:
        """An answer; or None, once the latest attempt is lost or its server is quiet. If it is the last one, once all
        are lost."""
        patience: asyncio.Future[None] | None = None
        # Most calls are answered by then, and need no more than this.
        await asyncio.wait(under_way, timeout=min(QUIET, attempts.share), return_when=asyncio.FIRST_COMPLETED)
        try:
            while True:
                for done in [attempt for attempt in under_way if attempt.done()]:
                    index = under_way.pop(done)
                    try:
                        call = done.result()
                    except FAILURES as error:
                        answer = self._lost(attempts, index, error, unanswered=bool(under_way))
                        if answer is not None:
                            return answer
                    else:
                        self._answered(index)
                        return call
                if not under_way or (latest not in under_way and not last):
                    return None
                if patience is None and not last:
                    patience = asyncio.ensure_future(self._patience(under_way[latest], attempts))
                if patience is not None and patience.done():
                    self._rotation.failed(under_way[latest])
                    return None
                waited: list[asyncio.Future[Any]] = [*under_way] if patience is None else [*under_way, patience]
                await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if patience is not None:
                patience.cancel()

    async def _patience(self, index: int, attempts: Attempts) -> None:
        """Returns when another server is to be asked besides that one."""
        share = attempts.share
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None if share == float("inf") else share):
                await self._liveness.until_quiet(index)

    def _answered(self, index: int) -> None:
        self._rotation.answered(index)
        self._liveness.heard(index)

    def _lost(self, attempts: Attempts, index: int, error: BaseException, *, unanswered: bool = False) -> Any:
        """As `Attempts.failed`, of that server."""
        answer = attempts.failed(error, unanswered=unanswered)
        if answer is None:
            self._rotation.failed(index)
        return answer

    async def _is_there(self, index: int, attempts: Attempts) -> bool:
        """Whether a server takes calls and answers them, or it is known that there is no connection to it."""
        channel = self._channels[index]
        try:
            async with asyncio.timeout(min(attempts.left / 2, LONGEST_ATTEMPT)):
                while (state := channel.get_state(try_to_connect=True)) not in _CONNECTION_DECIDED:
                    await channel.wait_for_state_change(state)
                return state is not grpc.ChannelConnectivity.READY or await self._liveness.is_there(index)
        except TimeoutError:
            return False
        except grpc.aio.UsageError:
            return True  # It was closed, which the call finds as well.


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
