"""Several processes of one service that share its ports, so that it uses all cores of a machine; and their parent."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog

from handclasp.transport.lifecycle import PARENT_PIPE_VARIABLE, StopRequests
from handclasp.transport.process import ProcessSettings, StartError
from handclasp.transport.worker import Worker, write_worker

FIRST_DELAY = 0.5
LAST_DELAY = 30.0
"""Seconds before a worker that ended is started again: doubled from the first to the last."""

STEADY = 60.0
"""Seconds after which a worker's end is not held against the next one."""

_STOP_MARGIN = 5.0
_LOOK = 0.05
_PROBE_SECONDS = 2.0
_LOOPBACK = "127.0.0.1"
_OK = 200

_LOG = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class WorkerText:
    """What a worker's process answered."""

    process_id: int
    text: str


class Workers:
    """The workers of a service. Entering starts them; each that ends is started again until this is left.

    A worker is a new process, not a fork of this one: gRPC does not survive that. Its standard input is a pipe from
    this process, so it stops by itself when this one is gone.

    Args:
        module: run as `python -m`; it calls `run_worker`.
        settings: of a worker by its number and ready file. Its health is to be on any free port of this machine's own.
        count: how many.
        stop: while a stop is requested, nobody is started.
        grace: how long a worker may take to stop, in seconds.
        lock: a descriptor that workers inherit.
    """

    def __init__(
        self,
        module: str,
        settings: Callable[[int, Path], ProcessSettings],
        *,
        count: int,
        stop: StopRequests,
        grace: float,
        lock: int | None = None,
    ) -> None:
        self._module = module
        self._settings = settings
        self._count = count
        self._stop = stop
        self._grace = grace
        self._lock = lock
        self._secret = secrets.token_bytes(32)
        self._processes: dict[int, asyncio.subprocess.Process] = {}
        self._failed = asyncio.Event()
        self._begun = False
        self._ending = False
        self._folder: Path | None = None
        self._stack = AsyncExitStack()

    @property
    def count(self) -> int:
        """How many there are to be."""
        return self._count

    @property
    def process_ids(self) -> Sequence[int]:
        """Of those that run, by number."""
        return [self._processes[number].pid for number in sorted(self._processes)]

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="handclasp-workers-")))
            keeping = [asyncio.create_task(self._keep(number), name=f"worker {number}") for number in self._numbers()]
            for task in keeping:
                self._stop.on_failure(task)
            stack.push_async_callback(self._end, keeping)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def wait_until_ready(self) -> bool:
        """Returns once all workers have been ready; False if a stop was asked for before.

        Raises:
            StartError: one of them could not start. It has said why.
        """
        while not self._stop.requested:
            if self._failed.is_set():
                raise StartError("a worker could not start; what it said is above, or in its log")
            if all(self._ready_file(number).exists() for number in self._numbers()):
                self._begun = True
                return True
            await asyncio.sleep(_LOOK)
        return False

    async def missing(self) -> str | None:
        """None if all workers can do their work; else what is missing, of the first that says so."""
        faults = await asyncio.gather(*(self._fault(number) for number in self._numbers()))
        return next((f"worker {number}: {fault}" for number, fault in enumerate(faults, 1) if fault), None)

    async def ask_metrics(self) -> dict[int, WorkerText]:
        """What `/metrics` of each worker says, by number; without those that do not answer within a moment."""
        texts = await asyncio.gather(*(self._metrics(number) for number in self._numbers()))
        return {number: text for number, text in enumerate(texts, 1) if text is not None}

    async def _keep(self, number: int) -> None:
        delay = FIRST_DELAY
        while not self._is_over():
            began = time.monotonic()
            status = await self._run_once(number)
            if self._is_over():
                return
            if not self._begun:
                self._failed.set()
                return
            if time.monotonic() - began >= STEADY:
                delay = FIRST_DELAY
            _LOG.error("worker_ended", ended=number, status=_described(status), retry_in=delay)
            with suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._stop.wait()
            delay = min(2 * delay, LAST_DELAY)

    def _is_over(self) -> bool:
        """A call, since type checkers take an attribute for the same before and after an await."""
        return self._stop.requested

    async def _run_once(self, number: int) -> int:
        ready_file = self._ready_file(number)
        ready_file.unlink(missing_ok=True)
        worker = Worker(number, self._settings(number, ready_file), self._lock, self._secret)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            self._module,
            env={**os.environ, PARENT_PIPE_VARIABLE: "0"},
            stdin=asyncio.subprocess.PIPE,
            pass_fds=[] if self._lock is None else [self._lock],
            # Ctrl-C is for this process, which then stops the workers.
            start_new_session=True,
        )
        self._processes[number] = process
        if self._ending:
            process.terminate()
        _LOG.info("worker_started", started=number, process_id=process.pid)
        try:
            if process.stdin is not None:
                process.stdin.write(write_worker(worker))
                await _unless_gone(process.stdin.drain())
            return await process.wait()
        finally:
            ready_file.unlink(missing_ok=True)
            if process.returncode is not None:
                del self._processes[number]

    async def _end(self, keeping: Sequence[asyncio.Task[None]]) -> None:
        """Stops them, all at the same time: each lets its calls end. A second request makes it quick."""
        self._stop.request_if_none()
        self._ending = True
        self._signal(signal.SIGTERM)
        impatience = asyncio.create_task(self._pass_on_impatience())
        try:
            _, late = await asyncio.wait(keeping, timeout=self._grace + _STOP_MARGIN)
            if late:
                _LOG.error("workers_killed", hint="they did not stop in time")
                self._signal(signal.SIGKILL)
                await asyncio.wait(late)
        finally:
            impatience.cancel()

    async def _pass_on_impatience(self) -> None:
        await self._stop.wait_at_once()
        self._signal(signal.SIGTERM)

    def _signal(self, number: signal.Signals) -> None:
        for process in self._processes.values():
            if process.returncode is None:
                process.send_signal(number)

    async def _fault(self, number: int) -> str | None:
        try:
            status, body, _ = await self._ask(number, "/readyz")
            return None if status == _OK else str(json.loads(body)["missing"])
        except (OSError, ValueError, TimeoutError):
            return "it is still starting, or does not answer"

    async def _metrics(self, number: int) -> WorkerText | None:
        with suppress(OSError, ValueError, TimeoutError):
            status, body, process_id = await self._ask(number, "/metrics")
            if status == _OK:
                return WorkerText(process_id, body.decode())
        return None

    async def _ask(self, number: int, path: str) -> tuple[int, bytes, int]:
        """Status and body of a worker's answer over HTTP, and its process id.

        Raises:
            OSError, ValueError, TimeoutError: it does not answer.
        """
        ready = json.loads(self._ready_file(number).read_text(encoding="utf-8"))
        async with asyncio.timeout(_PROBE_SECONDS):
            status, body = await _get(ready["health_port"], path)
        return status, body, ready["process_id"]

    def _ready_file(self, number: int) -> Path:
        if self._folder is None:
            raise FileNotFoundError
        return self._folder / f"{number}.json"

    def _numbers(self) -> range:
        return range(1, self._count + 1)


async def _get(port: int, path: str) -> tuple[int, bytes]:
    reader, writer = await asyncio.open_connection(_LOOPBACK, port)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    finally:
        writer.close()
    _, status, *_ = head.split(b" ", 2)
    return int(status), body


async def _unless_gone(writing: Awaitable[None]) -> None:
    """Of a process that ended before it read, its status says more."""
    with suppress(BrokenPipeError, ConnectionResetError):
        await writing


def _described(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    # Those between SIGRTMIN and SIGRTMAX have no names.
    names = {known.value: known.name for known in signal.Signals}
    return f"killed by {names.get(-status, f'signal {-status}')}"
