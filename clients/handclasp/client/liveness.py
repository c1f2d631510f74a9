"""Whether a server is there. One that is frozen keeps its connections, and its kernel takes in what is sent to it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import grpc

from handclasp.errors import DeadlineExceeded, HandclaspError, Unavailable

QUIET = 0.5
"""Seconds without an answer until a server is asked whether it is there."""

LONGEST_PROBE = 1.0
"""Seconds that it may take to say so."""

_HEALTH = "/grpc.health.v1.Health/Check"
_NO_ANSWER = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)


class Liveness:
    """Asks servers for their health, over the connections that calls use. Whatever one says shows that it is there, be
    it a refusal; and so does whatever it answered to a call just now.

    Args:
        channels: one for each server.
    """

    def __init__(self, channels: Sequence[grpc.aio.Channel], clock: Callable[[], float] = time.monotonic) -> None:
        # An empty message is a `HealthCheckRequest` for the server as a whole.
        self._checks: list[Callable[..., Awaitable[Any]]] = [channel.unary_unary(_HEALTH) for channel in channels]
        self._clock = clock
        self._heard: dict[int, float] = {}
        self._probes: dict[int, asyncio.Task[bool]] = {}

    def heard(self, index: int) -> None:
        """That server has answered something."""
        self._heard[index] = self._clock()

    async def is_there(self, index: int) -> bool:
        """Whether that server answers now, or did a moment ago. All who want to know share one question."""
        if self._clock() - self._heard.get(index, float("-inf")) < QUIET:
            return True
        probe = self._probes.get(index)
        if probe is None or probe.done():
            probe = self._probes[index] = asyncio.create_task(self._probe(index))
        return await asyncio.shield(probe)

    async def until_quiet(self, index: int) -> None:
        """Returns once that server answers nobody any more."""
        while True:
            if not await self.is_there(index):
                return
            await asyncio.sleep(QUIET)

    async def close(self) -> None:
        """Asks no more."""
        for probe in self._probes.values():
            probe.cancel()
        await asyncio.gather(*self._probes.values(), return_exceptions=True)

    async def _probe(self, index: int) -> bool:
        try:
            await self._checks[index](b"", timeout=LONGEST_PROBE)
        except (grpc.aio.AioRpcError, HandclaspError) as error:
            if _unanswered(error):
                return False
        except (grpc.aio.UsageError, asyncio.CancelledError):
            return False  # The channel is closed, or was meanwhile.
        self.heard(index)
        return True


def _unanswered(error: grpc.aio.AioRpcError | HandclaspError) -> bool:
    if isinstance(error, grpc.aio.AioRpcError):
        return error.code() in _NO_ANSWER
    return isinstance(error, Unavailable | DeadlineExceeded)
