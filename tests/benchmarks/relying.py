"""The same echo behind the interceptor of a relying party, which remembers what it decided."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import grpc

from handclasp.relying_party import EXECUTE_INTEGRATIONS, RelyingParty, Requirement
from handclasp.serving.files import write_secret
from handclasp.transport.logs import LogSettings, set_up_logging
from handclasp.transport.server import ServerLimits, server_options
from tests.benchmarks.echo import METHOD, EchoIdentity, echo_handlers


@dataclass(frozen=True, slots=True)
class RelyingEcho:
    """Its identity, and where it asks: `host:port` of the certificate service's mutual TLS listener."""

    identity: EchoIdentity
    certificate_service: str


def run_relying_echo(connection: Connection, echo: RelyingEcho) -> None:
    """The process. Sends its port and serves until the other end of the connection is closed."""
    set_up_logging(LogSettings(level="WARNING"))
    with tempfile.TemporaryDirectory(prefix="handclasp-relying-") as folder:
        asyncio.run(_serve(connection, echo, Path(folder)))


async def _serve(connection: Connection, echo: RelyingEcho, folder: Path) -> None:
    ca, certificate, key = folder / "ca.pem", folder / "cert.pem", folder / "key.pem"
    for path, content in ((ca, echo.identity.ca_pem), (certificate, echo.identity.certificate_pem)):
        path.write_bytes(content)
    write_secret(key, echo.identity.key_pem)
    limits = ServerLimits()
    async with RelyingParty(echo.certificate_service, ca_file=ca, certificate=certificate, key=key) as relying_party:
        server = grpc.aio.server(
            interceptors=[relying_party.interceptor({METHOD: Requirement(EXECUTE_INTEGRATIONS, "orders/get")})],
            options=server_options(limits),
            maximum_concurrent_rpcs=limits.maximum_concurrent_rpcs,
        )
        server.add_generic_rpc_handlers((echo_handlers(),))
        port = server.add_secure_port("127.0.0.1:0", relying_party.server_credentials())
        await server.start()
        connection.send(port)
        try:
            await asyncio.to_thread(connection.recv)
        except EOFError:
            await server.stop(None)
