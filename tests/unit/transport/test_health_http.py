"""Health over plain HTTP, which whoever reaches the port may ask for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest_asyncio

from handclasp.transport.health_http import HttpServer, health_routes

HOST = "127.0.0.1"
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def ready() -> str | None:
    return None


@pytest_asyncio.fixture
async def port() -> AsyncIterator[int]:
    async with HttpServer(health_routes(ready), host=HOST, port=0, setting="health_port") as server:
        yield server.port


async def ask(streams: Streams) -> bytes:
    """The first line of the answer."""
    reader, writer = streams
    writer.write(b"GET /readyz HTTP/1.1\r\nHost: here\r\n\r\n")
    line = await reader.readline()
    await reader.readuntil(b"}")
    return line.strip()


async def test_connections_that_ask_nothing_give_way(port: int) -> None:
    """The oldest ones, also if a part of a request has come, or one was answered before."""
    answered = await asyncio.open_connection(HOST, port)
    assert await ask(answered) == b"HTTP/1.1 200 OK"
    half = await asyncio.open_connection(HOST, port)
    half[1].write(b"GET /readyz HTTP/1.1\r\nHost:")
    quiet = [await asyncio.open_connection(HOST, port) for _ in range(150)]
    probe = await asyncio.open_connection(HOST, port)
    assert await ask(probe) == b"HTTP/1.1 200 OK"
    for reader, _ in (answered, half, *quiet[:50]):
        async with asyncio.timeout(10):
            assert isinstance(await asyncio.gather(reader.read(), return_exceptions=True), list)
        assert reader.at_eof() or reader.exception() is not None
    assert await ask(quiet[-1]) == b"HTTP/1.1 200 OK"
    for _, writer in (answered, half, probe, *quiet):
        writer.close()
