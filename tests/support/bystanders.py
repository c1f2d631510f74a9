"""Legitimate callers beside an attack: how many of their calls succeed, and how long those take, before and during it.

    with bystanders(Bystander("echo", echo_on_new_connections, (target,))) as crowd:
        crowd.call_quietly(6)
        with attacking(flood, target):
            crowd.call_under_attack(20)
    crowd.assert_served()

They call at a steady rate from a process of their own, whatever becomes of the calls before: a server that stops
answering gets no fewer of them.

A verdict that somebody was harmed is looked at again (tests/e2e/conftest.py): the machine is shared, and what it does
to a measurement once it seldom does three times.

Served is whoever has more than 95% of the calls succeed, and the slowest hundredth of those within five times of what
they took in quiet. What they took in quiet counts as `QUIET_FLOOR` at least, and as what a small server that nobody
attacks takes under attack: attacker, bystanders and other tests share the machine's few cores with the services, and no
verdict is to hang on milliseconds, or on how busy the machine was.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import multiprocessing
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import TypeAlias

import grpc

from handclasp.errors import HandclaspError

LEAST_SUCCESS = 0.95
MOST_SLOWER = 5.0
QUIET_FLOOR = 0.050
"""Seconds."""

UNTOUCHED = "a server that nobody attacks"
_WORK = 5000
"""Rounds of a hash: about as long, two milliseconds, as a service works on a call."""

_ANSWER_SECONDS = 60.0
_spawning = multiprocessing.get_context("spawn")

MakeCall: TypeAlias = Callable[[], Awaitable[object]]
Opened: TypeAlias = Callable[..., AbstractAsyncContextManager[MakeCall]]


@dataclass(frozen=True)
class Bystander:
    """One who calls again and again.

    Args:
        opened: a function of a module that gives, within, the call to make; it is called once, in the process of the
            bystanders. A call has failed if it raises.
        arguments: of `opened`; they can be pickled.
        every: seconds from the beginning of one call to that of the next.
        timeout: seconds that a call has.
    """

    name: str
    opened: Opened
    arguments: tuple[object, ...] = ()
    every: float = 0.1
    timeout: float = 5.0


@dataclass
class Calls:
    """What became of the calls of one bystander in one phase. Times are in seconds."""

    times: list[float] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)

    @property
    def success(self) -> float:
        """The share of calls that succeeded."""
        made = len(self.times) + self.failures.total()
        return len(self.times) / made if made else 0.0

    def percentile(self, share: float) -> float:
        """How long the given share of the successful calls took at most."""
        times = sorted(self.times)
        return times[max(0, math.ceil(share * len(times)) - 1)] if times else math.inf

    def __str__(self) -> str:
        failed = f", failed: {dict(self.failures)}" if self.failures else ""
        return (
            f"{self.success:.1%} of {len(self.times) + self.failures.total()}, p50 {self.percentile(0.5) * 1e3:.1f} ms,"
            f" p99 {self.percentile(0.99) * 1e3:.1f} ms{failed}"
        )


class HarmedError(AssertionError):
    """Bystanders were served worse under attack."""


Phase: TypeAlias = dict[str, Calls]


class Crowd:
    """Bystanders that are there; made by `bystanders`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.quiet: Phase = {}
        self.attacked: Phase = {}

    def call_quietly(self, seconds: float) -> Phase:
        """Has them call for so long, and keeps what became of it as what is usual."""
        self.quiet = self._call(seconds)
        for name, calls in self.quiet.items():
            assert calls.success == 1.0, f"{name}, in quiet: {calls}"
        return self.quiet

    def call_under_attack(self, seconds: float) -> Phase:
        """Has them call for so long."""
        self.attacked = self._call(seconds)
        return self.attacked

    def assert_served(self) -> None:
        """Fails unless each of them was served under attack nearly as well as in quiet. Prints the figures."""
        assert self.quiet, "nothing to compare with"
        assert self.attacked, "nothing to compare"
        harmed = []
        untouched = self.attacked[UNTOUCHED].percentile(0.99)
        for name, calls in self.attacked.items():
            quiet = self.quiet[name]
            line = f"{name}: quiet {quiet}; under attack {calls}"
            print(line)
            slowest = MOST_SLOWER * max(quiet.percentile(0.99), untouched, QUIET_FLOOR)
            if calls.success <= LEAST_SUCCESS or calls.percentile(0.99) >= slowest:
                harmed.append(line)
        if harmed:
            raise HarmedError("\n".join(harmed))

    def _call(self, seconds: float) -> Phase:
        self._connection.send(seconds)
        said = _received(self._connection, seconds + _ANSWER_SECONDS)
        assert isinstance(said, dict)
        return said


@contextmanager
def bystanders(*callers: Bystander) -> Iterator[Crowd]:
    """Bystanders in a process of their own, each with its connections made and one call answered.

    For services that are processes: it blocks, and so in an async test belongs into a thread.
    """
    assert len({caller.name for caller in callers}) == len(callers), "two of one name"
    with _process(_serve_untouched) as server:
        control = Bystander(UNTOUCHED, _call_untouched, (_received(server, _ANSWER_SECONDS),))
        with _process(_run, [*callers, control]) as connection:
            _received(connection, _ANSWER_SECONDS)
            yield Crowd(connection)


@contextmanager
def _process(target: Callable[..., None], *arguments: object) -> Iterator[Connection]:
    """A process of its own, and the connection to it. It is to end when that is closed."""
    ours, theirs = _spawning.Pipe()
    process = _spawning.Process(target=target, args=(theirs, *arguments), daemon=True)
    process.start()
    theirs.close()
    try:
        yield ours
    finally:
        ours.close()
        process.join(10)
        if process.is_alive():
            process.kill()
            process.join()


def _serve_untouched(connection: Connection) -> None:
    """A server that answers after a little work, and whose port is said."""
    asyncio.run(_answer_untouched(connection))


async def _answer_untouched(connection: Connection) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        word = await reader.read(1)
        hashlib.pbkdf2_hmac("sha256", word, b"", _WORK)
        writer.write(word)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    connection.send(server.sockets[0].getsockname()[1])
    with suppress(EOFError):
        await asyncio.to_thread(connection.recv)


@asynccontextmanager
async def _call_untouched(port: int) -> AsyncIterator[MakeCall]:
    async def call() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"x")
        await reader.read()
        writer.close()

    yield call


def _received(connection: Connection, timeout: float) -> object:
    assert connection.poll(timeout), f"the bystanders said nothing for {timeout:.0f} s"
    try:
        return connection.recv()
    except EOFError:
        raise AssertionError("the bystanders' process has ended; what it said is above") from None


def _run(connection: Connection, callers: Sequence[Bystander]) -> None:
    asyncio.run(_serve(connection, callers))


async def _serve(connection: Connection, callers: Sequence[Bystander]) -> None:
    async with AsyncExitStack() as stack:
        calls = {caller.name: await stack.enter_async_context(caller.opened(*caller.arguments)) for caller in callers}
        for call in calls.values():
            await call()
        connection.send("ready")
        while True:
            try:
                seconds = await asyncio.to_thread(connection.recv)
            except EOFError:
                return
            phases = await asyncio.gather(*(_call_steadily(caller, calls[caller.name], seconds) for caller in callers))
            connection.send(dict(zip(calls, phases, strict=True)))


async def _call_steadily(caller: Bystander, call: MakeCall, seconds: float) -> Calls:
    calls = Calls()
    end = time.monotonic() + seconds
    due = time.monotonic()
    async with asyncio.TaskGroup() as group:
        while due < end:
            await asyncio.sleep(due - time.monotonic())
            group.create_task(_call_once(caller, call, calls))
            due += caller.every
    return calls


async def _call_once(caller: Bystander, call: MakeCall, calls: Calls) -> None:
    began = time.monotonic()
    try:
        async with asyncio.timeout(caller.timeout):
            await call()
    except TimeoutError:
        calls.failures["not in time"] += 1
    except HandclaspError as error:
        calls.failures[error.reason] += 1
    except grpc.aio.AioRpcError as error:
        calls.failures[error.code().name] += 1
    except Exception as error:  # noqa: BLE001 - whatever it is, the call has failed
        calls.failures[repr(error)[:80]] += 1
    else:
        calls.times.append(time.monotonic() - began)
