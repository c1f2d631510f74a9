"""Notices, from a thread of its own, that the event loop does not turn: something that runs in it holds it up.

Meanwhile nobody is served, and nothing that runs in the loop can say so. So the thread logs what holds it up, answers
probes in place of the server that cannot, and sees to it that a process which is told to stop does.
"""

from __future__ import annotations

import asyncio
import contextvars
import json
import logging
import os
import select
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TypeAlias

import structlog

from handclasp.transport.lifecycle import StopRequests

WhoRuns: TypeAlias = Callable[[asyncio.AbstractEventLoop, Sequence[FrameType]], str]
"""Names what runs in a loop, by the stack of its thread, innermost first; empty if it cannot tell. Called in another
thread."""

BEAT = 0.25
"""Seconds between turns of the loop that are looked for."""

_PROBE_SECONDS = 1.0
_LOG = structlog.stdlib.get_logger(__name__)


class LoopWatchdog:
    """Watches the event loop of the thread that enters it.

    Args:
        stop: knows when the process was told to stop.
        limit: seconds without a turn after which the loop counts as blocked.
        grace: seconds that a process has to stop, if its loop stays blocked after SIGTERM or SIGINT.
        probes: the listening socket of the health port, to be answered while the loop is blocked.
        who_runs: what the blocks are counted by.

    Attributes:
        blocks: how often it was blocked, by what ran.
        seconds: for how long together, without the block that lasts.
    """

    def __init__(
        self, stop: StopRequests, *, limit: float, grace: float, probes: socket.socket, who_runs: WhoRuns
    ) -> None:
        self._stop = stop
        self._limit = limit
        self._grace = grace
        self._probes = probes
        self._who_runs = who_runs
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watched = threading.get_ident()
        self._last_turn = time.monotonic()
        self._over = threading.Event()
        self.blocks: Counter[str] = Counter()
        self.seconds = 0.0

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watches while inside. To be entered in the loop's thread."""
        self._loop = asyncio.get_running_loop()
        self._watched = threading.get_ident()
        self._turn()
        within = contextvars.copy_context()  # for what every line of this process's log has
        threading.Thread(target=within.run, args=(self._watch,), name="loop watchdog", daemon=True).start()
        try:
            yield
        finally:
            self._over.set()

    def _turn(self) -> None:
        self._last_turn = time.monotonic()
        if self._loop is not None and not self._over.is_set():
            self._loop.call_later(BEAT, self._turn)

    def _watch(self) -> None:
        while not self._over.wait(BEAT):
            if time.monotonic() - self._last_turn >= self._limit:
                self._while_blocked(self._last_turn)

    def _while_blocked(self, since: float) -> None:
        who, task, place = self._what_runs()
        self.blocks[who] += 1
        _LOG.error(
            "loop_blocked",
            seconds=self._limit,
            integration=who,
            task=task,
            at=place,
            hint="nobody is served until it ends",
        )
        while self._last_turn == since and not self._over.is_set():
            told = self._stop.signalled_at
            if told is not None and (time.monotonic() - told > self._grace or self._stop.signals > 1):
                self._give_up(who, task, place)
            self._answer_probes(f"integration {who}" if who else task)
        lasted = time.monotonic() - since
        self.seconds += lasted
        _LOG.warning("loop_unblocked", seconds=round(lasted, 1), integration=who, task=task, at=place)

    def _what_runs(self) -> tuple[str, str, str]:
        """The integration, the name of the task, and file and line."""
        task = None
        with suppress(RuntimeError):
            task = asyncio.current_task(self._loop)
        frame = sys._current_frames().get(self._watched)
        place = (
            "" if frame is None else f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} {frame.f_code.co_name}"
        )
        stack = []
        while frame is not None:
            stack.append(frame)
            frame = frame.f_back
        who = "" if self._loop is None else self._who_runs(self._loop, stack)
        return who, "" if task is None else task.get_name(), place

    def _answer_probes(self, task: str) -> None:
        """Answers those who connect within a beat."""
        with suppress(OSError):
            readable, _, _ = select.select([self._probes], [], [], BEAT)
            if readable:
                connection, _ = self._probes.accept()
                with connection:
                    connection.settimeout(_PROBE_SECONDS)
                    connection.recv(4096)
                    connection.sendall(_blocked_response(task))

    def _give_up(self, who: str, task: str, place: str) -> None:
        _LOG.critical("stopped_while_blocked", grace=self._grace, integration=who, task=task, at=place)
        logging.shutdown()
        os._exit(1)


def _blocked_response(task: str) -> bytes:
    body = json.dumps({"status": "blocked", "missing": f"the event loop, which is held up by {task or 'something'}"})
    return (
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nConnection: close\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}"
    ).encode()
