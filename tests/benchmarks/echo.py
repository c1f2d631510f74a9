"""The bare echo that all is measured beside: a gRPC server over mutual TLS with nothing in front of its method."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

import grpc

from handclasp.transport.server import ServerLimits, server_options

METHOD = "/benchmark.Echo/Echo"


@dataclass(frozen=True, slots=True)
class EchoIdentity:
    """The server certificate with its key, and whom to let in."""

    certificate_pem: bytes
    key_pem: bytes = field(repr=False)
    ca_pem: bytes


def run_echo(connection: Connection, identity: EchoIdentity) -> None:
    """The process. Sends its port and serves until the other end of the connection is closed."""
    asyncio.run(_serve(connection, identity))


async def _serve(connection: Connection, identity: EchoIdentity) -> None:
    credentials = grpc.ssl_server_credentials(
        [(identity.key_pem, identity.certificate_pem)], identity.ca_pem, require_client_auth=True
    )
    await serve_echo(connection, credentials)


async def serve_echo(
    connection: Connection,
    credentials: grpc.ServerCredentials,
    interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
) -> None:
    """Serves the echo, with something in front of it or nothing; as `run_echo`."""
    limits = ServerLimits()
    server = grpc.aio.server(
        interceptors=interceptors or None,
        options=server_options(limits),
        maximum_concurrent_rpcs=limits.maximum_concurrent_rpcs if not interceptors else None,
    )
    service, _, name = METHOD.strip("/").partition("/")
    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {name: grpc.unary_unary_rpc_method_handler(_echo)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    connection.send(port)
    try:
        await asyncio.to_thread(connection.recv)
    except EOFError:
        await server.stop(None)


async def _echo(request: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
    return request
