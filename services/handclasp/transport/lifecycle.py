"""Runs servers until they are told to stop, and stops them in order."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Collection, Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import grpc
import structlog
from grpc_health.v1.health import aio as health_aio

from handclasp.serving.draining import Draining
from handclasp.transport.hanging_up import hang_up

PARENT_PIPE_VARIABLE = "HANDCLASP_PARENT_PIPE"
"""Names the descriptor of a pipe that a parent process holds open: when that one ends, so does this."""

_REFUSING = 0.5
"""Seconds: long enough for whoever calls all the time to learn of it, and go elsewhere."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_LOG = structlog.stdlib.get_logger(__name__)


class ServiceFailedError(Exception):
    """A background task failed, and so the service was stopped. Which one, and why, is in the log."""


class StopRequests:
    """What asks a process to stop. The first request is for a graceful stop, a second one for a stop at once."""

    def __init__(self) -> None:
        self._graceful = asyncio.Event()
        self._at_once = asyncio.Event()
        self._failed = False
        self.signalled_at: float | None = None
        """When the first signal came, on the monotonic clock: known at once, even if the event loop does not turn."""
        self.signals = 0
        """How many came."""

    def request(self) -> None:
        """Asks for a stop, or after the first time for a stop at once."""
        if self._graceful.is_set():
            self._at_once.set()
        self._graceful.set()

    def request_if_none(self) -> None:
        """Asks for a stop, unless that has been done: it is no second request."""
        self._graceful.set()

    @property
    def requested(self) -> bool:
        """Whether a stop has been asked for."""
        return self._graceful.is_set()

    def on_failure(self, task: asyncio.Task[None]) -> asyncio.Task[None]:
        """Has a background task that fails be a request: a service must not go on without what it does there."""

        def ended(task: asyncio.Task[None]) -> None:
            if not task.cancelled():
                error: BaseException | None = task.exception()
            else:
                # gRPC ends a call over a channel that is closed as if whoever awaits it had been cancelled.
                error = None if task.cancelling() else asyncio.CancelledError("nobody cancelled it")
            if error is not None:
                _LOG.critical("background_task_failed", task=task.get_name(), exc_info=error)
                self._failed = True
                # Nobody has become impatient: calls that run may end, however many tasks fail.
                self.request_if_none()

        task.add_done_callback(ended)
        return task

    async def wait(self) -> None:
        """Returns after the first request."""
        await self._graceful.wait()

    async def wait_at_once(self) -> None:
        """Returns after the second request."""
        await self._at_once.wait()

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """While inside, SIGINT and SIGTERM are requests, and so is the end of a parent process that asked for it.

        Main thread only.

        Raises:
            ServiceFailedError: at the end, if a background task failed: whoever started the process is to see that.
        """
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self.request)
            # asyncio is told by a descriptor, and its own handler does nothing. Python calls this one between two steps
            # of whatever holds up the loop.
            signal.signal(number, self._note_signal)
            signal.siginterrupt(number, False)
        parent = os.environ.get(PARENT_PIPE_VARIABLE)
        pipe = None if parent is None else int(parent)
        if pipe is not None:
            loop.add_reader(pipe, self._parent_is_gone, pipe)
        try:
            yield
        finally:
            for number in _SIGNALS:
                loop.remove_signal_handler(number)
            if pipe is not None:
                loop.remove_reader(pipe)
        if self._failed:
            raise ServiceFailedError

    def _note_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.signals += 1
        if self.signalled_at is None:
            self.signalled_at = time.monotonic()

    def _parent_is_gone(self, pipe: int) -> None:
        # Nothing is ever written to it, so that it can be read means that it was closed.
        asyncio.get_running_loop().remove_reader(pipe)
        self.request()


async def run_until_stopped(
    servers: Sequence[grpc.aio.Server],
    healths: Sequence[health_aio.HealthServicer],
    stop: StopRequests,
    *,
    grace: float,
    calls: Sequence[Draining],
    ports: Collection[int],
    stopping: Callable[[], None] = lambda: None,
) -> None:
    """Waits for a request to stop, and then stops servers that were started before.

    Health says NOT_SERVING first, and new calls are refused as not carried out; for half a second nothing else, so that
    clients go elsewhere. Then what does not run yet is refused as well, and running calls have `grace` seconds to end.
    What is left gets UNAVAILABLE, with CALL_INTERRUPTED. When all have ended, the connections are closed, and last the
    servers are stopped. If this is cancelled, they are stopped at once.

    Args:
        calls: those of each server.
        ports: where the servers listen.
        stopping: called when that half second is over; has those end that would never end by themselves.
    """
    try:
        await stop.wait()
        if stop.signalled_at is not None:
            # If the event loop was held up since, part of it is over.
            grace = max(0.0, grace - (time.monotonic() - stop.signalled_at))
        _LOG.info("stopping", grace=round(grace, 1))
        for health in healths:
            await health.enter_graceful_shutdown()
        for each in calls:
            each.refuse_all()
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait_at_once(), _REFUSING)
        stopping()
        ended = await _all_within(grace, [each.drain() for each in calls], stop)
        if not ended:
            await asyncio.gather(*(each.end_all() for each in calls))
        hang_up(ports)
    finally:
        # Once more, since whoever was hung up on may have connected again. That takes a handshake, and from here on
        # there is no time for one.
        hang_up(ports)
        await _stop(servers)
    _LOG.info("stopped")


async def _all_within(seconds: float, waits: Sequence[Coroutine[Any, Any, None]], stop: StopRequests) -> bool:
    """Returns when all have returned, the time is over, or somebody has become impatient; whether it was the first."""
    ending: asyncio.Future[Any] = asyncio.gather(*waits)
    impatience = asyncio.create_task(stop.wait_at_once())
    try:
        waited: set[asyncio.Future[Any]] = {ending, impatience}
        await asyncio.wait(waited, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        impatience.cancel()
        if not ending.done():
            ending.cancel()
    if ending.done() and not ending.cancelled():
        await ending
        return True
    if impatience.done():
        _LOG.warning("stopping_at_once")
    return False


async def _stop(servers: Sequence[grpc.aio.Server]) -> None:
    await asyncio.gather(*(server.stop(None) for server in servers))
