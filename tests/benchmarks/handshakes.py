"""New connections over mutual TLS to a listener that has many trust anchors, and one that were just changed."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

import grpc

from handclasp.serving.tls import ReloadingCredentials, TlsIdentity
from handclasp.transport.server import ServerLimits, server_options
from tests.benchmarks.figures import Waits
from tests.benchmarks.processes import answer, process
from tests.support.outside_ca import OutsideCA
from tests.support.tls_lab import key_and_chain, server_identity

ANCHORS = (1, 100, 1_000)
CHANGES = 20

_HANDSHAKES = 5
_TIMEOUT = 10.0  # seconds


@dataclass(frozen=True, slots=True)
class Handshakes:
    """Seconds until a new connection can be used: the first after each change of the anchors, and those that follow."""

    first: Waits
    following: Waits


@dataclass(frozen=True, slots=True)
class Listener:
    """What the listener begins with."""

    identity: TlsIdentity
    roots_pem: bytes


async def measure_handshakes(folder: Path) -> Mapping[int, Handshakes]:
    """By number of anchors.

    Args:
        folder: for the client's files.
    """
    cas = [OutsideCA(f"Partner {number} CA") for number in range(max(ANCHORS))]
    # Its leaf is below the first one, which is always there.
    client = cas[0].issue("client")
    files = folder / "client.pem"
    files.write_text(client.pem + client.key_pem)
    context = ssl.create_default_context(cadata=cas[0].pem)
    context.load_cert_chain(files)
    context.set_alpn_protocols(["h2"])
    identity = TlsIdentity(*key_and_chain(server_identity(cas[0])))
    found: dict[int, Handshakes] = {}
    with process(run_listener, Listener(identity, cas[0].pem.encode())) as listener:
        port = await answer(listener)
        for anchors in ANCHORS:
            bundle = "".join(ca.pem for ca in cas[:anchors]).encode()
            first: list[float] = []
            following: list[float] = []
            for _ in range(CHANGES):
                listener.send(bundle)
                await answer(listener)
                took = await asyncio.to_thread(_connect, port, context, _HANDSHAKES)
                first.append(took[0])
                following += took[1:]
            found[anchors] = Handshakes(Waits(first), Waits(following))
    return found


def run_listener(connection: Connection, listener: Listener) -> None:
    """The process. Sends its port; then takes bundles, and answers each once it is in force."""
    asyncio.run(_serve(connection, listener))


async def _serve(connection: Connection, listener: Listener) -> None:
    credentials = ReloadingCredentials(listener.identity, listener.roots_pem)
    server = grpc.aio.server(options=server_options(ServerLimits()))
    port = server.add_secure_port("127.0.0.1:0", credentials.credentials)
    await server.start()
    connection.send(port)
    try:
        while True:
            bundle = await asyncio.to_thread(connection.recv)
            credentials.replace(listener.identity, bundle)
            connection.send(None)
    except EOFError:
        await server.stop(None)


def _connect(port: int, context: ssl.SSLContext, times: int) -> Sequence[float]:
    waits: list[float] = []
    for _ in range(times):
        begin = time.perf_counter()
        with (
            socket.create_connection(("127.0.0.1", port), timeout=_TIMEOUT) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as connection,
        ):
            # In TLS 1.3 the client is done before the server has looked at its certificate. What the server says first
            # comes after that; if it does not like the certificate, there is an error instead.
            if not connection.recv(1):
                raise ConnectionError("the listener closed the connection instead of saying something")
            waits.append(time.perf_counter() - begin)
    return waits
