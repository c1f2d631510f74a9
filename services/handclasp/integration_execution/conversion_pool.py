"""Processes that convert large inputs and outputs, which would hold up the event loop: how many, and whose turn it is.

A job holds Python's interpreter for as long as it takes, so a thread would not do. What one caller has waiting does not
hold up another's: callers take turns, and of several processes one is never a single caller's.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import sys
from collections import Counter, OrderedDict, deque
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Self

import structlog
from pydantic import Field

from handclasp.errors import Reason, ResourceExhausted
from handclasp.integration_execution.conversion_jobs import LENGTH, InputJob, Outcome, OutputJob, Reply, Setup

MODULE = "handclasp.integration_execution.conversion_process"

_START_SECONDS = 60.0
_CLOCK_PER_PROCESSOR = 6
"""How much longer by the clock a job may take than of the processor's time: one that sleeps takes none of that."""
_RETRY_AFTER = timedelta(seconds=1)
_SWITCH_SECONDS = 0.0005
_BUFFER = 256 * 1024
_IN_LOOP = 16 * 1024
"""Bytes of a pickle that are read in the event loop."""

_LOG = structlog.stdlib.get_logger(__name__)

_Number = Annotated[int, Field(ge=1, le=2**40)]


@dataclass(frozen=True, slots=True)
class InputLimits:
    """What inputs and outputs of integrations may take up. Those that are not small are converted (parsed, validated,
    and written as JSON) in processes beside the server's.

    Args:
        maximum_input_values: how many JSON values an input may have: objects, lists, and what is in them.
        small_bytes: up to this size requests and outputs are converted in the server's own process, and hold up others
            for that long.
        processes: how many there are, each started when it is needed first. With more than one, one caller's jobs never
            have all of them.
        processor_seconds: how much of the processor's time one conversion may take.
        memory_bytes: how much memory it may take.
        waiting_per_caller: how many large inputs one user may have waiting or being converted at once.
        waiting: how many all users together may have.
    """

    maximum_input_values: _Number = 100_000
    small_bytes: Annotated[int, Field(ge=0, le=2**40)] = 2048
    processes: Annotated[int, Field(ge=1, le=64)] = 2
    processor_seconds: Annotated[float, Field(ge=0.01, le=3600, allow_inf_nan=False)] = 5.0
    memory_bytes: Annotated[int, Field(ge=16 * 2**20, le=2**40)] = 512 * 1024 * 1024
    waiting_per_caller: _Number = 4
    waiting: _Number = 64


@dataclass(slots=True, eq=False)
class _Waiting:
    caller: str
    frame: bytes
    counted: bool
    reply: asyncio.Future[Reply] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class ConversionPool:
    """The processes. Leaving ends them.

    Args:
        folder: of integrations.
    """

    def __init__(self, limits: InputLimits, folder: Path | None) -> None:
        self._limits = limits
        setup = Setup(folder, limits.maximum_input_values, limits.processor_seconds, limits.memory_bytes)
        self._idle = [_Process(setup) for _ in range(limits.processes)]
        self._most_of_one = max(1, limits.processes - 1)
        self._waiting: OrderedDict[str, deque[_Waiting]] = OrderedDict()
        self._at_work: Counter[str] = Counter()
        self._counted: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        # For threads that read and write pickles: at Python's 5 ms, a call that hands over a few times waits for 50.
        sys.setswitchinterval(_SWITCH_SECONDS)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for process in self._idle:
            await process.end()

    async def convert(self, caller: str, job: InputJob | OutputJob) -> Reply:
        """Has a job done when it is the caller's turn.

        If this is cancelled, a job that has begun goes on, and counts as its caller's until it has ended.

        Raises:
            ResourceExhausted: INPUTS_BUSY; of an output never, as its integration has run already.
        """
        counted = isinstance(job, InputJob)
        if counted:
            self._admit(caller)
        waiting = _Waiting(caller, pickle.dumps(job, pickle.HIGHEST_PROTOCOL), counted)
        self._waiting.setdefault(caller, deque()).append(waiting)
        self._begin()
        try:
            return await waiting.reply
        except asyncio.CancelledError:
            queue = self._waiting.get(caller)
            if queue is not None and waiting in queue:
                queue.remove(waiting)
                self._uncount(waiting)
            raise

    def _admit(self, caller: str) -> None:
        if self._counted[caller] >= self._limits.waiting_per_caller:
            raise _busy("of yours")
        if self._counted.total() >= self._limits.waiting:
            raise _busy("of all callers")
        self._counted[caller] += 1

    def _uncount(self, waiting: _Waiting) -> None:
        if waiting.counted:
            self._counted[waiting.caller] -= 1
            self._counted += Counter()  # forgets those at nought

    def _begin(self) -> None:
        """Gives idle processes the jobs whose turn it is."""
        for caller in list(self._waiting):
            if not self._idle:
                return
            queue = self._waiting[caller]
            while queue and self._idle and self._at_work[caller] < self._most_of_one:
                self._at_work[caller] += 1
                task = asyncio.create_task(self._work(self._idle.pop(), queue.popleft()))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            if queue:
                self._waiting.move_to_end(caller)
            else:
                del self._waiting[caller]

    async def _work(self, process: _Process, waiting: _Waiting) -> None:
        reply: Reply | None = None
        try:
            reply = await process.convert(waiting.frame)
        finally:
            self._idle.append(process)
            self._at_work[waiting.caller] -= 1
            self._at_work += Counter()
            self._uncount(waiting)
            if not waiting.reply.done():
                if reply is None:
                    waiting.reply.set_exception(_busy("of all callers"))
                else:
                    waiting.reply.set_result(reply)
            self._begin()


class _Process:
    """One process, started when it has something to do and is not there."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._process: asyncio.subprocess.Process | None = None

    async def convert(self, frame: bytes) -> Reply | None:
        """The reply to a job; None if the process cannot be started."""
        try:
            if self._process is None or self._process.returncode is not None:
                self._process = await self._started()
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            _LOG.error("conversion_process_not_started", fault=repr(error))
            await self.end()
            return None
        except asyncio.CancelledError:
            await self.end()
            raise
        try:
            async with asyncio.timeout(_CLOCK_PER_PROCESSOR * self._setup.processor_seconds):
                data = await self._asked(self._process, frame)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            process_id = self._process.pid
            await self.end()
            _LOG.warning("conversion_process_ended", process_id=process_id, status=self._ended_with)
            return Reply(Outcome.TOO_MUCH)
        except asyncio.CancelledError:
            await self.end()
            raise
        reply = await unpickled(data)
        assert isinstance(reply, Reply)  # noqa: S101 this program's own
        return reply

    _ended_with: int | None = None

    async def end(self) -> None:
        """Ends the process, if there is one."""
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(ProcessLookupError):
            process.kill()
        self._ended_with = await process.wait()

    async def _started(self) -> asyncio.subprocess.Process:
        process = self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            MODULE,
            env=os.environ,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_BUFFER,
            start_new_session=True,
        )
        async with asyncio.timeout(_START_SECONDS):
            await self._write(process, pickle.dumps(self._setup))
            await self._read(process)
        _LOG.info("conversion_process_started", process_id=process.pid)
        return process

    async def _asked(self, process: asyncio.subprocess.Process, frame: bytes) -> bytes:
        await self._write(process, LENGTH.pack(len(frame)), frame)
        return await self._read(process)

    async def _write(self, process: asyncio.subprocess.Process, *parts: bytes) -> None:
        assert process.stdin is not None  # noqa: S101 it is a pipe
        process.stdin.writelines(parts)
        await process.stdin.drain()

    async def _read(self, process: asyncio.subprocess.Process) -> bytes:
        assert process.stdout is not None  # noqa: S101 it is a pipe
        (length,) = LENGTH.unpack(await process.stdout.readexactly(LENGTH.size))
        return await process.stdout.readexactly(length)


async def unpickled(data: bytes) -> Any:
    """What a conversion process has pickled. A long one is read in a thread, which lets the event loop go on now and
    then."""
    if len(data) <= _IN_LOOP:
        return pickle.loads(data)  # noqa: S301 from a process that this one started
    return await asyncio.to_thread(pickle.loads, data)


def _busy(whose: str) -> ResourceExhausted:
    return ResourceExhausted(
        Reason.INPUTS_BUSY,
        f"too many large inputs {whose} are being checked at this moment; nothing was run: try again as RetryInfo "
        "says, with fewer at once, or with smaller ones",
        retry_after=_RETRY_AFTER,
    )
