"""The client that makes the load: a process of its own, the same for all that is measured.

It sends requests that were made beforehand and takes answers as bytes, so that it costs every method the same.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Protocol, TypeAlias

os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

import grpc

from tests.benchmarks.figures import Burst

CONCURRENCY = 32
"""Calls in flight at once, on one connection."""

_CALL_TIMEOUT = 30.0  # seconds

Following: TypeAlias = Callable[[bytes, bytes], bytes]
"""From a request and its answer to the next request. A function of a module, since it goes to another process."""


@dataclass(frozen=True, slots=True)
class Server:
    """Where to call, and as whom."""

    address: str
    ca_pem: bytes
    certificate_pem: bytes
    key_pem: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Calls:
    """Calls of one method.

    Attributes:
        method: `/package.Service/Method`.
        requests: sent in turn; with `following`, what each of the concurrent callers begins with.
    """

    server: Server
    method: str
    requests: Sequence[bytes] = field(repr=False)
    following: Following | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """A call that failed, or an error in this process."""

    message: str


class Loop(Protocol):
    """Something to do over and over, in this process and without gRPC, for that many seconds."""

    def __call__(self, seconds: float) -> Burst: ...


def run_load(connection: Connection, things: Mapping[str, Calls | Loop]) -> None:
    """The process. Takes `(name, seconds)` and answers with a `Burst` or a `Failure`; ends on None."""
    asyncio.run(_serve(connection, things))


async def _serve(connection: Connection, things: Mapping[str, Calls | Loop]) -> None:
    channels: dict[Server, grpc.aio.Channel] = {}
    try:
        while (order := await asyncio.to_thread(connection.recv)) is not None:
            name, seconds = order
            thing = things[name]
            try:
                if isinstance(thing, Calls):
                    if thing.server not in channels:
                        channels[thing.server] = open_channel(thing.server)
                    answer: Burst | Failure = await _burst(channels[thing.server], thing, seconds)
                else:
                    answer = thing(seconds)
            except grpc.aio.AioRpcError as error:
                answer = Failure(f"{name}: {error.code().name}: {error.details()}")
            connection.send(answer)
    finally:
        for channel in channels.values():
            await channel.close()


def open_channel(server: Server) -> grpc.aio.Channel:
    """A connection of its own, once something is called over it."""
    credentials = grpc.ssl_channel_credentials(server.ca_pem, server.key_pem, server.certificate_pem)
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
    return grpc.aio.secure_channel(server.address, credentials, options=options)


async def _burst(channel: grpc.aio.Channel, calls: Calls, seconds: float) -> Burst:
    call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(calls.method)
    turns = itertools.cycle(calls.requests)
    latencies: list[float] = []
    sample = b""

    async def caller() -> None:
        nonlocal sample
        request = next(turns)
        while (begun := time.perf_counter()) < end:
            sample = await call(request, timeout=_CALL_TIMEOUT)
            latencies.append(time.perf_counter() - begun)
            request = next(turns) if calls.following is None else calls.following(request, sample)

    begin = time.perf_counter()
    end = begin + seconds
    async with asyncio.TaskGroup() as callers:
        for _ in range(CONCURRENCY):
            callers.create_task(caller())
    return Burst(len(latencies), time.perf_counter() - begin, latencies, sample)
