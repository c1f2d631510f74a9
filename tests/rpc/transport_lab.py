"""A small server behind the interceptor, over real TLS, with one method of each kind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration

from handclasp.errors import HandclaspError, PermissionDenied, Reason, Unavailable
from handclasp.serving.call_figures import CallObserver
from handclasp.serving.interceptor import Admit, CallInterceptor, Translate, current_caller, current_peer
from handclasp.serving.peer import Peer
from handclasp.serving.tls import TlsIdentity
from handclasp.transport.lifecycle import StopRequests, run_until_stopped
from handclasp.transport.server import ServerLimits, add_health_and_reflection, make_server
from tests.rpc.execution_harness import server_leaf
from tests.support.outside_ca import Issued, OutsideCA

SERVICE = "tests.Kinds"


@dataclass(frozen=True)
class Caller:
    """What `admit` makes of a peer here."""

    user: str


async def admit(method: str, peer: Peer) -> Caller:
    """Lets everybody in but where the method's name says otherwise."""
    if method.endswith("Forbidden"):
        raise PermissionDenied(Reason.ACCESS_DENIED, "nobody may", metadata={"decision": "decisions/d7"})
    return Caller("users/alice" if peer.certificate_der else "users/nobody")


def raise_what(request: bytes) -> None:
    """Raises what the request asks for."""
    errors: dict[bytes, BaseException] = {
        b"typed": PermissionDenied(Reason.ACCESS_DENIED, "typed on purpose"),
        b"unforeseen": RuntimeError("the secret recipe"),
        b"storage": OSError("disk full"),
        b"cancelled": asyncio.CancelledError(),
    }
    if request in errors:
        raise errors[request]


class Kinds:
    """Handlers of the four kinds. `open_streams` counts those that are in progress."""

    def __init__(self) -> None:
        self.open_streams = 0

    async def unary(self, request: bytes, context: Any) -> bytes:
        raise_what(request)
        if request == b"abort":
            await context.abort(grpc.StatusCode.OUT_OF_RANGE, "aborted by itself")
        caller = current_caller()
        assert isinstance(caller, Caller)
        return f"{caller.user} {current_peer().address}".encode()

    async def generated(self, request: bytes, _context: Any) -> AsyncIterator[bytes]:
        yield b"first"
        raise_what(request)
        yield current_peer().address.encode()

    async def written(self, request: bytes, context: Any) -> None:
        await context.write(b"first")
        raise_what(request)
        await context.write(current_peer().address.encode())

    async def endless(self, _request: bytes, _context: Any) -> AsyncIterator[bytes]:
        self.open_streams += 1
        try:
            while True:
                yield b"x" * 65536
        finally:
            self.open_streams -= 1

    async def collected(self, requests: AsyncIterator[bytes], _context: Any) -> bytes:
        parts = [part async for part in requests]
        for part in parts:
            raise_what(part)
        return b"".join(parts)

    async def echoed(self, _requests: Any, context: Any) -> None:
        while (part := await context.read()) is not grpc.aio.EOF:
            raise_what(part)
            await context.write(part)

    async def measured(self, _requests: Any, context: Any) -> bytes:
        total = 0
        while (part := await context.read()) is not grpc.aio.EOF:
            total += part.seconds
        return str(total).encode()

    def synchronous(self, request: bytes, context: Any) -> bytes:
        raise NotImplementedError("as generated base classes do")

    async def patient(self, request: bytes, _context: Any) -> bytes:
        await asyncio.sleep(3600 if request == b"for ever" else 0.3)
        return b"done"

    def handlers(self) -> grpc.GenericRpcHandler:
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Unary": grpc.unary_unary_rpc_method_handler(self.unary),
                "Forbidden": grpc.unary_unary_rpc_method_handler(self.unary),
                "Generated": grpc.unary_stream_rpc_method_handler(self.generated),
                "Written": grpc.unary_stream_rpc_method_handler(self.written),
                "Endless": grpc.unary_stream_rpc_method_handler(self.endless),
                "Collected": grpc.stream_unary_rpc_method_handler(self.collected),
                "Echoed": grpc.stream_stream_rpc_method_handler(self.echoed),
                "Measured": grpc.stream_unary_rpc_method_handler(self.measured, Duration.FromString),
                "Synchronous": grpc.unary_unary_rpc_method_handler(self.synchronous),
                "Patient": grpc.unary_unary_rpc_method_handler(self.patient),
            },
        )


@dataclass
class Lab:
    """A running server and a channel to it."""

    server: grpc.aio.Server
    interceptor: CallInterceptor
    health: Any
    kinds: Kinds
    ca: OutsideCA
    port: int
    channel: grpc.aio.Channel

    async def run_until_stopped(self, stop: StopRequests, *, grace: float) -> None:
        """As the services' processes do."""
        await run_until_stopped(
            [self.server], [self.health], stop, grace=grace, calls=[self.interceptor.draining], ports=[self.port]
        )

    def unary(self, method: str, request: bytes = b"") -> Any:
        call: Any = self.channel.unary_unary(f"/{SERVICE}/{method}")
        return call(request, timeout=10)

    def stream(self, method: str, request: bytes = b"") -> Any:
        call: Any = self.channel.unary_stream(f"/{SERVICE}/{method}")
        return call(request, timeout=10)


def identity_of(leaf: Issued) -> TlsIdentity:
    return TlsIdentity(leaf.key_pem.encode(), leaf.pem.encode())


def channel_to(port: int, ca: OutsideCA, client: Issued | None = None) -> grpc.aio.Channel:
    pair = (client.key_pem.encode(), client.pem.encode()) if client else (None, None)
    credentials = grpc.ssl_channel_credentials(ca.pem.encode(), *pair)
    return grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options=[("grpc.use_local_subchannel_pool", 1)])


@asynccontextmanager
async def running_lab(
    limits: ServerLimits | None = None,
    *,
    translate: Translate | None = None,
    admitting: Admit = admit,
    observer: CallObserver | None = None,
) -> AsyncIterator[Lab]:
    """A server over mutual TLS."""
    ca = OutsideCA("Test CA")
    limits = limits or ServerLimits()
    interceptor = CallInterceptor(admitting, translate, limits=limits.of_calls(), observer=observer)
    server = make_server(interceptor, limits)
    kinds = Kinds()
    server.add_generic_rpc_handlers((kinds.handlers(),))
    health = add_health_and_reflection(server, [SERVICE])
    own = server_leaf(ca, "server")
    credentials = grpc.ssl_server_credentials(
        [(own.key_pem.encode(), own.pem.encode())], ca.pem.encode(), require_client_auth=True
    )
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    try:
        async with channel_to(port, ca, ca.issue("alice")) as channel:
            yield Lab(server, interceptor, health, kinds, ca, port, channel)
    finally:
        await server.stop(None)


def translate_storage(error: Exception) -> HandclaspError | None:
    """What a service with a disk might pass as `translate`."""
    return Unavailable(Reason.STORAGE_UNAVAILABLE, "try again") if isinstance(error, OSError) else None
