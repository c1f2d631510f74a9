"""A server of somebody's that is a relying party, with a method of each kind, beside a scripted certificate service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from handclasp.errors import HandclaspError
from handclasp.errors.status import from_rpc_error
from handclasp.relying_party import EXECUTE_INTEGRATIONS, Allowed, Options, RelyingParty, Requirement
from handclasp.serving.files import write_secret
from handclasp.serving.interceptor import current_caller, current_peer
from handclasp.transport.server import ServerLimits, add_health_and_reflection, server_options
from tests.rpc.execution_harness import (
    ALLOWED,
    ScriptedCertificateService,
    certificate_service,
    server_leaf,
)
from tests.rpc.scripted_watch import ScriptedWatches
from tests.support.faulty_link import FaultyLink, faulty_link
from tests.support.outside_ca import Issued, OutsideCA

SERVICE = "shop.v1.Orders"


def by_request(request: bytes | None) -> str:
    """What a request is about, for the method `About`."""
    return f"orders/{(request or b'none').decode()}"


def identity(text: bytes) -> bytes:
    return text


TABLE = {
    f"/{SERVICE}/{name}": Requirement(EXECUTE_INTEGRATIONS, f"orders/{name.lower()}")
    for name in ("Get", "Wait", "Count", "Flood", "Collect", "Chat", "Filter")
} | {f"/{SERVICE}/About": Requirement(EXECUTE_INTEGRATIONS, by_request)}


class Orders:
    """The handlers. `begun` and `ended` count calls of those that take time."""

    def __init__(self) -> None:
        self.party: RelyingParty | None = None
        self.begun = 0
        self.ended = 0
        self.calls = 0
        self.proceed = asyncio.Event()

    async def get(self, request: bytes, _context: Any) -> bytes:
        self.calls += 1
        return request

    async def about(self, _request: bytes, _context: Any) -> bytes:
        caller = current_caller()
        assert isinstance(caller, Allowed)
        return caller.user.encode()

    async def wait(self, _request: bytes, _context: Any) -> bytes:
        self.begun += 1
        try:
            await self.proceed.wait()
        finally:
            self.ended += 1
        return b"done"

    async def count(self, _request: bytes, _context: Any) -> AsyncIterator[bytes]:
        self.begun += 1
        try:
            for number in range(10_000):
                yield str(number).encode()
                await asyncio.sleep(0.01)
        finally:
            self.ended += 1

    async def flood(self, _request: bytes, context: Any) -> None:
        self.begun += 1
        try:
            while True:
                await context.write(b"x" * 65536)
        finally:
            self.ended += 1

    async def collect(self, requests: AsyncIterator[bytes], _context: Any) -> bytes:
        self.begun += 1
        try:
            return b"".join([part async for part in requests])
        finally:
            self.ended += 1

    async def chat(self, _requests: Any, context: Any) -> None:
        self.begun += 1
        try:
            while (part := await context.read()) is not grpc.aio.EOF:
                await context.write(part)
        finally:
            self.ended += 1

    async def filter(self, request: bytes, _context: Any) -> bytes:
        assert self.party is not None
        names = request.decode().split(",")
        answers = await self.party.authorizer.allowed(current_peer(), EXECUTE_INTEGRATIONS, names)
        return ",".join(name for name, allowed in zip(names, answers, strict=True) if allowed).encode()

    def handlers(self) -> grpc.GenericRpcHandler:
        unary, streams = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
        parsed: Any = {"request_deserializer": identity}
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Get": unary(self.get),
                "Elsewhere": unary(self.get),
                "About": unary(self.about, **parsed),
                "Wait": unary(self.wait),
                "Filter": unary(self.filter, **parsed),
                "Count": streams(self.count),
                "Flood": streams(self.flood),
                "Collect": grpc.stream_unary_rpc_method_handler(self.collect),
                "Chat": grpc.stream_stream_rpc_method_handler(self.chat),
            },
        )


@dataclass
class Shop:
    """The running server, and what it takes to call it."""

    service: ScriptedCertificateService
    watches: ScriptedWatches
    ca: OutsideCA
    alice: Issued
    party: RelyingParty
    orders: Orders
    port: int
    folder: Path
    own: Issued
    link: FaultyLink | None = None
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    channels: dict[bytes, grpc.aio.Channel] = field(default_factory=dict)

    def channel(self, client: Issued | None = None, *, fresh: bool = False) -> grpc.aio.Channel:
        client = client or self.alice
        if fresh or client.der not in self.channels:
            credentials = grpc.ssl_channel_credentials(
                self.ca.pem.encode(), client.key_pem.encode(), client.pem.encode()
            )
            options = [("grpc.use_local_subchannel_pool", 1)]
            channel = grpc.aio.secure_channel(f"localhost:{self.port}", credentials, options=options)
            self.stack.push_async_callback(channel.close)
            self.channels[client.der] = channel
        return self.channels[client.der]

    def unary(self, method: str = "Get", request: bytes = b"x", *, client: Issued | None = None, **more: Any) -> Any:
        call: Any = self.channel(client).unary_unary(f"/{SERVICE}/{method}")
        return call(request, timeout=20, **more)

    def stream(self, method: str) -> Any:
        call: Any = self.channel().unary_stream(f"/{SERVICE}/{method}")
        return call(b"x", timeout=20)

    @property
    def asked(self) -> int:
        """How many questions the certificate service got."""
        return len(self.service.checked)


@asynccontextmanager
async def running_shop(
    folder: Path,
    *,
    watches: ScriptedWatches | None = None,
    options: Options | None = None,
    arrange: Callable[[ScriptedCertificateService], None] | None = None,
    cuttable: bool = False,
) -> AsyncIterator[Shop]:
    """The server, with alice allowed everything. If `cuttable`, it reaches the certificate service through a link."""
    ca = OutsideCA("Test CA")
    alice = ca.issue("alice")
    own = server_leaf(ca, "orders")
    (folder / "ca.pem").write_text(ca.pem)
    (folder / "cert.pem").write_text(own.pem)
    write_secret(folder / "key.pem", own.key_pem.encode())
    watches = watches or ScriptedWatches()
    async with AsyncExitStack() as stack:
        service, service_port = await stack.enter_async_context(certificate_service(ca, watches=watches))
        link = await stack.enter_async_context(faulty_link(service_port)) if cuttable else None
        service.reasons[alice.der] = service.reasons[own.der] = ALLOWED
        if arrange is not None:
            arrange(service)
        party = RelyingParty(
            f"localhost:{service_port if link is None else link.port}",
            ca_file=folder / "ca.pem",
            certificate=folder / "cert.pem",
            key=folder / "key.pem",
            options=options,
        )
        async with party:
            orders = Orders()
            orders.party = party
            server = grpc.aio.server(interceptors=[party.interceptor(TABLE)], options=server_options(ServerLimits()))
            server.add_generic_rpc_handlers((orders.handlers(),))
            add_health_and_reflection(server, [SERVICE])
            port = server.add_secure_port("127.0.0.1:0", party.server_credentials())
            await server.start()
            shop = Shop(service, watches, ca, alice, party, orders, port, folder, own, link)
            try:
                async with shop.stack:
                    yield shop
            finally:
                await server.stop(None)


async def refusal(call: Any) -> HandclaspError:
    """The typed error that a call ends with."""
    try:
        async with asyncio.timeout(15):
            await call
    except grpc.aio.AioRpcError as error:
        return from_rpc_error(error)
    raise AssertionError("it did not end with an error")


async def stream_refusal(call: Any) -> HandclaspError:
    """The typed error that a stream of responses ends with."""

    async def read_all() -> None:
        async for _ in call:
            pass

    return await refusal(read_all())
