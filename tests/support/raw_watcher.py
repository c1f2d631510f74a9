"""A relying party's watch, message by message: it does what a test tells it to, and nothing by itself."""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest

from handclasp.authorization.v1 import authorization_service_pb2 as pb
from handclasp.authorization.v1.authorization_service_pb2_grpc import AuthorizationServiceStub
from tests.support.installation import Identity, Installation

Request = pb.WatchAuthorizationRequest
Response = pb.WatchAuthorizationResponse

_numbers = itertools.count(1)


def new_process_id() -> str:
    return secrets.token_hex(16)


@dataclass
class RawWatcher:
    """One stream. `position` is that of the last message that had one."""

    call: Any
    process_id: str
    position: pb.Position = field(default_factory=pb.Position)

    async def receive(self) -> Response:
        """The next message."""
        message = await self.call.read()
        assert isinstance(message, Response), "the stream ended, and not with an error"
        kind = message.WhichOneof("message")
        if kind in {"reset", "changes"}:
            self.position.CopyFrom(getattr(message, kind).position)
        return message

    async def expect(self, kind: str) -> Any:
        """The next message, which must be of that kind."""
        message = await self.receive()
        assert message.WhichOneof("message") == kind, message
        return getattr(message, kind)

    async def ping(self, acknowledged: int | None = None, number: int | None = None) -> int:
        """Pings, acknowledging what it was told unless something else is given; returns the ping's number."""
        sent = next(_numbers) if number is None else number
        revision = self.position.revision if acknowledged is None else acknowledged
        await self._write(Request(ping=Request.Ping(number=sent, acknowledged_revision=revision)))
        return sent

    async def acknowledge(self, revision: int | None = None) -> None:
        """Acknowledges what it was told."""
        told = self.position.revision if revision is None else revision
        await self._write(Request(acknowledgement=Request.Acknowledgement(revision=told)))

    async def _write(self, request: Request) -> None:
        # gRPC cancels a call whose writer is cancelled within the write: the stream would end with a task that pings.
        await asyncio.shield(asyncio.ensure_future(self.call.write(request)))

    async def lease(self, acknowledged: int | None = None) -> Response.Pong:
        """Pings until it has a lease; what changes before that is not acknowledged.

        A service that is busy may be uncertain of its own lease for a moment, and then answers no pings.
        """
        pinging = asyncio.create_task(self._ping_on(acknowledged))
        try:
            while (message := await self.receive()).WhichOneof("message") != "pong":
                pass
        finally:
            pinging.cancel()
        return message.pong

    async def _ping_on(self, acknowledged: int | None) -> None:
        while True:
            await self.ping(acknowledged)
            await asyncio.sleep(1.0)

    async def ping_on(self, acknowledged: int | None = None) -> None:
        """Pings twenty times a second, until cancelled. Arguments as of `ping`."""
        while True:
            await self.ping(acknowledged)
            await asyncio.sleep(0.05)

    def pinging(self, acknowledged: int | None = None) -> asyncio.Task[None]:
        return asyncio.create_task(self.ping_on(acknowledged))

    async def end(self) -> grpc.StatusCode:
        """What the stream ends with, whatever it says before."""
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self._until_it_ends()
        return caught.value.code()

    async def _until_it_ends(self) -> None:
        while True:
            await self.receive()

    async def obey(self) -> None:
        """Acknowledges all that comes, until cancelled."""
        while True:
            message = await self.receive()
            if message.WhichOneof("message") == "changes":
                await self.acknowledge()

    def obeying(self) -> asyncio.Task[None]:
        return asyncio.create_task(self.obey())


@asynccontextmanager
async def opened(
    installation: Installation, identity: Identity | None = None, *, process_id: str | None = None
) -> AsyncIterator[RawWatcher]:
    """A stream on which nothing has been said yet, of the installation's relying party unless another one is given."""
    who = identity or installation.relying_party_identity
    credentials = grpc.ssl_channel_credentials(installation.ca_pem, who.key_pem, who.certificate_pem)
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.secure_channel(installation.mtls_address, credentials, options=options) as channel:
        call = AuthorizationServiceStub(channel).WatchAuthorization()
        try:
            yield RawWatcher(call, process_id or new_process_id())
        finally:
            call.cancel()


@asynccontextmanager
async def watching(
    installation: Installation,
    identity: Identity | None = None,
    *,
    process_id: str | None = None,
    applied: pb.Position | None = None,
) -> AsyncIterator[RawWatcher]:
    """A stream that has begun."""
    async with opened(installation, identity, process_id=process_id) as watcher:
        start = Request.Start(process_id=watcher.process_id, applied=applied)
        await watcher.call.write(Request(start=start))
        yield watcher


@asynccontextmanager
async def watching_from_now(installation: Installation, identity: Identity | None = None) -> AsyncIterator[RawWatcher]:
    """The same, past the welcome and the reset that it begins with."""
    async with watching(installation, identity) as watcher:
        await watcher.expect("welcome")
        await watcher.expect("reset")
        yield watcher
