"""A link between two processes that a test can cut: a proxy, on loopback or between Unix sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TypeAlias

_CHUNK = 65536

Connect: TypeAlias = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


class Flow(Enum):
    """What becomes of bytes in one direction. Connections stay open whatever it is."""

    PASS = "they arrive"
    SWALLOW = "they are gone"
    HOLD = "they arrive once they pass again"


@dataclass
class _Direction:
    flow: Flow = Flow.PASS
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def set(self, flow: Flow) -> None:
        async with self.changed:
            self.flow = flow
            self.changed.notify_all()

    async def wait_while_held(self) -> None:
        async with self.changed:
            await self.changed.wait_for(lambda: self.flow is not Flow.HOLD)


class FaultyLink:
    """Passes on what comes to its port to another one; made by `faulty_link`.

    Args:
        connect: opens a connection to the target.

    Attributes:
        port: where to connect to instead; 0 between Unix sockets.
        opened: how many connections there have been.
    """

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._there = _Direction()
        self._back = _Direction()
        self._connections: set[asyncio.Task[None]] = set()
        self.port = 0
        self.opened = 0

    async def set(self, there: Flow = Flow.PASS, back: Flow = Flow.PASS) -> None:
        """Says what becomes of bytes from now on: to the target, and back from it."""
        await self._there.set(there)
        await self._back.set(back)

    async def lose_open_connections(self) -> None:
        """Swallows all that comes over connections that are open now, without a word. New ones work."""
        for direction in (self._there, self._back):
            await direction.set(Flow.SWALLOW)
        self._there, self._back = _Direction(), _Direction()

    async def heal(self) -> None:
        """Lets everything pass. Connections that lost bytes are of no use any more, and are closed."""
        for connection in list(self._connections):
            connection.cancel()
        await self.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, as `asyncio.start_server` calls it."""
        self.opened += 1
        # In a task of its own: a handler of asyncio's that is cancelled is logged as a fault.
        task = asyncio.create_task(self._pass_on(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            # The link ends. The task says so, and this must not.
            task.cancel()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            target_reader, target_writer = await self._connect()
        except OSError:
            writer.close()
            return
        try:
            await asyncio.wait(
                {
                    asyncio.ensure_future(_pump(reader, target_writer, self._there)),
                    asyncio.ensure_future(_pump(target_reader, writer, self._back)),
                },
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            writer.close()
            target_writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: _Direction) -> None:
    with suppress(OSError):
        while data := await reader.read(_CHUNK):
            await direction.wait_while_held()
            if direction.flow is Flow.PASS:
                writer.write(data)
                await writer.drain()


@asynccontextmanager
async def faulty_link(target_port: int) -> AsyncIterator[FaultyLink]:
    """A link to a port of this machine's, which need not be there yet."""
    link = FaultyLink(partial(asyncio.open_connection, "127.0.0.1", target_port))
    server = await asyncio.start_server(link.serve, "127.0.0.1", 0)
    link.port = server.sockets[0].getsockname()[1]
    try:
        yield link
    finally:
        server.close()
        for connection in list(link._connections):
            connection.cancel()


@asynccontextmanager
async def faulty_socket(target: Path, path: Path) -> AsyncIterator[FaultyLink]:
    """A link from one Unix socket to another.

    Args:
        path: where to connect to instead; made here, and short, since a Unix socket's path has a limit.
    """
    link = FaultyLink(partial(asyncio.open_unix_connection, str(target)))
    server = await asyncio.start_unix_server(link.serve, str(path))
    try:
        yield link
    finally:
        server.close()
        await link.heal()
