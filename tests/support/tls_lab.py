"""A bare gRPC server that records with whom it spoke, and channels to it: for tests of TLS itself.

No policy of ours is applied here: the point is to see what the TLS stack lets through.
"""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes

from tests.support.outside_ca import SERVER_AUTH, Issued, OutsideCA, pem_of

PATH = "/facts.Facts/Call"
# Long enough for a busy machine; what should fail fails by itself long before.
PATIENCE_SECONDS = 20.0

AuthContext = Mapping[str, Iterable[bytes]]
Handler = Callable[["grpc.aio.ServicerContext[bytes, bytes]"], Awaitable[bytes]]
Options = Sequence[tuple[str, Any]]


def server_identity(ca: OutsideCA, key: CertificateIssuerPrivateKeyTypes | None = None) -> Issued:
    """A server's certificate for localhost and 127.0.0.1."""
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    return ca.issue("server", key=key, purposes=(SERVER_AUTH,), alternative=names)


def key_and_chain(identity: Issued) -> tuple[bytes, bytes]:
    return identity.key_pem.encode(), identity.pem.encode()


def mutual_tls(server: Issued, *roots: x509.Certificate) -> grpc.ServerCredentials:
    """Fixed credentials that require a client certificate under `roots`."""
    return mutual_tls_with_bundle(server, pem_of(*roots))


def mutual_tls_with_bundle(server: Issued, bundle: str) -> grpc.ServerCredentials:
    """The same, with the text of the bundle as it is."""
    return grpc.ssl_server_credentials([key_and_chain(server)], bundle.encode(), require_client_auth=True)


def configuration(server: Issued, *roots: x509.Certificate) -> grpc.ServerCertificateConfiguration:
    """What a fetcher of `grpc.dynamic_ssl_server_credentials` returns."""
    return grpc.ssl_server_certificate_configuration([key_and_chain(server)], pem_of(*roots).encode())


@dataclass
class BareServer:
    """A server on a port of its own; `seen` has the auth context of each call that came through."""

    port: int = 0
    seen: list[AuthContext] = field(default_factory=list)


@asynccontextmanager
async def bare_server(credentials: grpc.ServerCredentials, handler: Handler | None = None) -> AsyncIterator[BareServer]:
    """Serves `PATH`, which answers with nothing unless there is a handler; that gets the call's context."""
    bare = BareServer()

    async def answer(_request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        bare.seen.append(context.auth_context())
        return b"" if handler is None else await handler(context)

    service, method = PATH.strip("/").split("/")
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler(service, {method: grpc.unary_unary_rpc_method_handler(answer)})]
    )
    bare.port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    try:
        yield bare
    finally:
        await server.stop(None)


def connect(port: int, roots: x509.Certificate, client: Issued | None, options: Options = ()) -> grpc.aio.Channel:
    """A channel with connections of its own."""
    key, chain = key_and_chain(client) if client else (None, None)
    credentials = grpc.ssl_channel_credentials(pem_of(roots).encode(), key, chain)
    own_connections = ("grpc.use_local_subchannel_pool", 1)
    return grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options=[own_connections, *options])


async def call(channel: grpc.aio.Channel, timeout: float = PATIENCE_SECONDS) -> None:
    """One call. Raises `grpc.aio.AioRpcError` if it does not come through."""
    method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(PATH)
    await method(b"", timeout=timeout)


async def gets_in(port: int, roots: x509.Certificate, client: Issued | None, options: Options = ()) -> bool:
    """Whether a call on a new connection comes through. False exactly if the connection is refused.

    Args:
        roots: what the client trusts.
        client: the client's certificate and key; None for a client without.
    """
    async with connect(port, roots, client, options) as channel:
        try:
            await call(channel)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            return False
        return True
