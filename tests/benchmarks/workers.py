"""A certificate service of one worker beside one of two, each on a PostgreSQL database of its own.

`python -m tests.benchmarks --workers`. The load comes over several connections, since the kernel deals out connections
and not calls. What each part takes of the processors is said along: on a machine of few cores, the load and the
database take from the service what it would need to be twice as fast. So it is measured twice: as it is, and with each
worker held to a share of one processor, which leaves the load and the database as much as processors of their own.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import grpc
import psutil
from rich.console import Console
from rich.table import Table

from tests.benchmarks import processes, workload
from tests.benchmarks.figures import Burst, Goal
from tests.benchmarks.filling import fill
from tests.benchmarks.load import Calls
from tests.benchmarks.processes import CallFailedError
from tests.benchmarks.quotas import QuotasUnavailableError, limited
from tests.benchmarks.services import RunningServices, ServicesError
from tests.support.postgres import PostgresRun

COUNTS = (1, 2)
MEASURED = (workload.CHECK, workload.ISSUE)
STORED = 1_000
CONNECTIONS = 16
CALLERS = 64
ROUNDS = 7
BURST_SECONDS = 1.5
GOAL = Goal(at_least=1.5)

HELD_SHARE = 0.4
"""Of a processor, for each worker: two of them, their load and PostgreSQL together need less than two processors."""

_START_SECONDS = 90.0
_CALL_SECONDS = 30.0
_NOWHERE = "localhost:9"

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Round:
    """A burst, and how many processors each part of the whole took meanwhile."""

    burst: Burst
    service: float
    database: float
    load: float


_WORKER = "handclasp.certificate_service.worker"


@dataclass(frozen=True, slots=True)
class Side:
    """A service that is measured."""

    workers: int
    process: psutil.Process
    things: Mapping[str, Calls]

    def worker_ids(self) -> Sequence[int]:
        """Of the processes that serve. A single worker is the service's own process."""
        if self.workers == 1:
            return [self.process.pid]
        # Another child relays the parent's standard error.
        return [child.pid for child in self.process.children() if _WORKER in child.cmdline()]


@dataclass(frozen=True, slots=True)
class Found:
    """What was measured, by what was called and how many workers there were.

    Attributes:
        held: the same with each worker held to `HELD_SHARE`; or why that could not be.
    """

    free: Mapping[tuple[str, int], Sequence[Round]]
    held: Mapping[tuple[str, int], Sequence[Round]] | str


def main(progress: Progress) -> None:
    """Measures, and prints a table.

    Raises:
        CallFailedError, ServicesError, PostgresUnavailable
    """
    run = PostgresRun.begin()
    try:
        with tempfile.TemporaryDirectory(prefix="handclasp-bench-") as folder:
            found = asyncio.run(_measure(Path(folder), run, progress))
    finally:
        run.end()
    console = Console()
    (console if console.is_terminal else Console(width=140)).print(_table(found))


async def _measure(folder: Path, run: PostgresRun, progress: Progress) -> Found:
    server = run.server()
    async with AsyncExitStack() as stack:
        sides = []
        for count in COUNTS:
            url = stack.enter_context(server.database())
            progress(f"starting the service with {count} worker(s)")
            sides.append(await _side(stack, folder / str(count), url, count))
        database = psutil.Process(int((run.folder / "keeper.pid").read_text()))
        things = {(name, side.workers): side.things[name] for name in MEASURED for side in sides}
        load = stack.enter_context(processes.process(run_load, things))
        parts = (database, psutil.Process().children()[-1])
        free = await _rounds(sides, parts, load, progress)
        try:
            with limited([worker for side in sides for worker in side.worker_ids()], HELD_SHARE):
                held: Mapping[tuple[str, int], Sequence[Round]] | str = await _rounds(sides, parts, load, progress)
        except QuotasUnavailableError as error:
            held = str(error)
        load.send(None)
    return Found(free, held)


async def _rounds(
    sides: Sequence[Side], others: Sequence[psutil.Process], load: Connection, progress: Progress
) -> dict[tuple[str, int], list[Round]]:
    found: dict[tuple[str, int], list[Round]] = {(name, side.workers): [] for name in MEASURED for side in sides}
    for name in MEASURED:
        for number in range(ROUNDS + 1):
            # In turns, so that whatever else runs on the machine slows both of them down alike.
            for side in sides:
                parts = (side.process, *others)
                before, begin = [_seconds_used(part) for part in parts], time.perf_counter()
                load.send(((name, side.workers), BURST_SECONDS))
                burst = await processes.answer(load)
                if not isinstance(burst, Burst) or not workload.is_right(name, burst.sample):
                    raise CallFailedError(f"{name}: {burst}")
                took = time.perf_counter() - begin
                used = [(_seconds_used(part) - then) / took for part, then in zip(parts, before, strict=True)]
                if number:
                    # The first one only warms up.
                    found[name, side.workers].append(Round(burst, *used))
            progress(f"{name}: round {number} of {ROUNDS}")
    return found


async def _side(stack: AsyncExitStack, folder: Path, url: str, count: int) -> Side:
    folder.mkdir()  # noqa: ASYNC240 - nothing else runs yet
    async with _serving(folder, url, 1) as (services, _):
        cast = await workload.make_cast(services)
    stored = await fill(url, STORED, lambda _: None)
    services, process = await stack.enter_async_context(_serving(folder, url, count))
    things = workload.make_workload(services, cast, _NOWHERE, _NOWHERE, stored)
    return Side(count, process, {name: thing for name, thing in things.items() if isinstance(thing, Calls)})


@asynccontextmanager
async def _serving(folder: Path, url: str, count: int) -> AsyncIterator[tuple[RunningServices, psutil.Process]]:
    data, ready = folder / "data", folder / "ready.json"
    command = [str(Path(sys.executable).with_name("handclasp")), "serve", "certificates", "--workers", str(count)]
    ports = [text for name in ("tls", "mtls", "health") for text in (f"--{name}-port", "0")]
    with (folder / "said.log").open("ab") as said:
        process = subprocess.Popen(  # noqa: ASYNC220 - it does not wait
            [*command, "--data-dir", str(data), "--ready-file", str(ready), *ports],
            env={**os.environ, "HANDCLASP_CERTIFICATES_DATABASE_URL": url},
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
    try:
        async with asyncio.timeout(_START_SECONDS):
            while not ready.exists():
                if process.poll() is not None:
                    raise ServicesError(f"the service ended: {(folder / 'said.log').read_text()[-1000:]}")
                await asyncio.sleep(0.05)
        port = json.loads(ready.read_text())["mtls_port"]
        addresses = {"certificates_mtls": f"localhost:{port}", "executions": _NOWHERE}
        yield RunningServices(addresses, data / "ca.pem", data / "context.toml", {}), psutil.Process(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(process.wait, _START_SECONDS)


def _seconds_used(process: psutil.Process) -> float:
    """Of the processor, by a process and all below it."""
    total = 0.0
    for one in (process, *process.children(recursive=True)):
        try:
            times = one.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def run_load(connection: Connection, things: Mapping[tuple[str, int], Calls]) -> None:
    """The load's process. Takes what to call and for how many seconds, and answers with a `Burst`; ends on None."""
    asyncio.run(_answer_orders(connection, things))


async def _answer_orders(connection: Connection, things: Mapping[tuple[str, int], Calls]) -> None:
    async with AsyncExitStack() as stack:
        channels: dict[Any, list[grpc.aio.Channel]] = {}
        while (order := await asyncio.to_thread(connection.recv)) is not None:
            key, seconds = order
            calls = things[key]
            if calls.server not in channels:
                credentials = grpc.ssl_channel_credentials(
                    calls.server.ca_pem, calls.server.key_pem, calls.server.certificate_pem
                )
                options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
                channels[calls.server] = [
                    await stack.enter_async_context(
                        grpc.aio.secure_channel(calls.server.address, credentials, options=options)
                    )
                    for _ in range(CONNECTIONS)
                ]
            try:
                connection.send(await _burst(channels[calls.server], calls, seconds))
            except grpc.aio.AioRpcError as error:
                connection.send(f"{error.code().name}: {error.details()}")


async def _burst(channels: Sequence[grpc.aio.Channel], calls: Calls, seconds: float) -> Burst:
    turns = itertools.cycle(calls.requests)
    latencies: list[float] = []
    sample = b""

    async def caller(channel: grpc.aio.Channel) -> None:
        nonlocal sample
        call: Any = channel.unary_unary(calls.method)
        while (begun := time.perf_counter()) < end:
            sample = await call(next(turns), timeout=_CALL_SECONDS)
            latencies.append(time.perf_counter() - begun)

    begin = time.perf_counter()
    end = begin + seconds
    async with asyncio.TaskGroup() as callers:
        for number in range(CALLERS):
            callers.create_task(caller(channels[number % len(channels)]))
    return Burst(len(latencies), time.perf_counter() - begin, latencies, sample)


def _table(found: Found) -> Table:
    not_held = f" Not measured with workers that are held: {found.held}." if isinstance(found.held, str) else ""
    table = Table(
        title="Two workers beside one, on PostgreSQL",
        caption=(
            f"{CALLERS} calls at once on {CONNECTIONS} connections from one client process; medians of {ROUNDS} rounds."
            f" Processors in use while it ran, of {os.cpu_count()}: of the service, of PostgreSQL, of the client."
            f" Held: each worker to {HELD_SHARE} of a processor, so that client and PostgreSQL have theirs.{not_held}"
        ),
        caption_justify="left",
    )
    for heading in ("", "workers", "calls/s", "p95", "service", "PostgreSQL", "client", "beside one", "goal"):
        table.add_column(heading, justify="left" if not heading else "right")
    _add_rows(table, found.free, "")
    if not isinstance(found.held, str):
        _add_rows(table, found.held, ", held")
    return table


def _add_rows(table: Table, found: Mapping[tuple[str, int], Sequence[Round]], how: str) -> None:
    for name in MEASURED:
        first = found[name, COUNTS[0]]
        for count in COUNTS:
            rounds = found[name, count]
            ratio = statistics.median(ours.burst.rate / one.burst.rate for ours, one in zip(rounds, first, strict=True))
            latencies = [latency for each in rounds for latency in each.burst.latencies]
            p95 = statistics.quantiles(latencies, n=100, method="inclusive")[94]
            beside = (
                ("", "") if count == COUNTS[0] else (f"{ratio:.2f}", "reached" if GOAL.reached(ratio) else "missed")
            )
            table.add_row(
                f"{name}{how}",
                str(count),
                f"{statistics.median(each.burst.rate for each in rounds):,.0f}",
                f"{p95 * 1000:.0f} ms",
                *(
                    f"{statistics.median(getattr(each, part) for each in rounds):.2f}"
                    for part in ("service", "database", "load")
                ),
                *beside,
            )
