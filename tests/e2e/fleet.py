"""Several certificate services on one PostgreSQL, and execution servers at them: processes, and the links between them.

Each part can be stopped, killed, or cut off: a service from the database, an execution server from its service.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from sqlalchemy import make_url

from handclasp.client.client import HandclaspClient
from tests.e2e.clients import administrator, client_with
from tests.e2e.processes import Deployment, Process, free_port
from tests.support.faulty_link import FaultyLink, faulty_link, faulty_socket
from tests.support.installation import share_keys

_SOCKET = ".s.PGSQL.5432"


@dataclass
class Replica:
    """A certificate service.

    Attributes:
        database: its link to PostgreSQL; None on SQLite.
    """

    name: str
    deployment: Deployment
    variables: Mapping[str, str]
    database: FaultyLink | None
    process: Process

    async def start(self) -> None:
        """Starts it again, on the same ports."""
        self.process = await asyncio.to_thread(self.deployment.certificates, self.variables)

    def kill(self) -> None:
        """`kill -9`, if it runs."""
        if self.process.popen.poll() is None:
            self.process.kill()


@dataclass
class Server:
    """An execution server, and its link to the one service that it is pinned to."""

    name: str
    port: int
    link: FaultyLink
    process: Process


@dataclass
class Fleet:
    """All of them. The first replica's data folder has the administrator."""

    folder: Path
    replicas: list[Replica]
    servers: list[Server] = field(default_factory=list)

    @property
    def first(self) -> Deployment:
        """The deployment of the first replica."""
        return self.replicas[0].deployment

    def client(self, server: Server, certificate_pem: bytes, key_pem: bytes) -> HandclaspClient:
        """A client of one of the execution servers."""
        return client_with(self.first, certificate_pem, key_pem, executions=f"localhost:{server.port}")

    def administrator(self, replica: Replica) -> HandclaspClient:
        """The first administrator, at that replica."""
        return administrator(self.first, f"localhost:{replica.deployment.ports['mtls']}")


@asynccontextmanager
async def fleet(
    folder: Path,
    *,
    database_url: str | None = None,
    replicas: int = 1,
    servers: int = 2,
    variables: Mapping[str, str] | None = None,
    deaf: frozenset[int] = frozenset(),
) -> AsyncIterator[Fleet]:
    """A fleet that runs, each server at one of the services, in turn.

    Args:
        database_url: of an empty PostgreSQL database, reached by a Unix socket; None for SQLite and one service.
        variables: settings of execution servers.
        deaf: numbers of services that hear no notifications.
    """
    async with AsyncExitStack() as stack:
        found = Fleet(folder, [])
        for number in range(replicas):
            replica = await _replica(stack, found, number, database_url, deaf=number in deaf)
            found.replicas.append(replica)
            stack.callback(replica.kill)
        for number in range(servers):
            name = "executions" if number == 0 else f"executions-{number}"
            await asyncio.to_thread(found.first.issue_execution_identity, name)
            replica = found.replicas[number % replicas]
            link = await stack.enter_async_context(faulty_link(replica.deployment.ports["mtls"]))
            port = found.first.ports.setdefault(name, free_port())
            start = partial(found.first.execution_server, name, service_port=link.port, variables=variables)
            server = Server(name, port, link, await asyncio.to_thread(start))
            stack.callback(server.process.kill)
            found.servers.append(server)
        yield found


async def _replica(
    stack: AsyncExitStack, found: Fleet, number: int, database_url: str | None, *, deaf: bool
) -> Replica:
    deployment = Deployment(found.folder if number == 0 else found.folder / f"replica-{number}")
    deployment.folder.mkdir(exist_ok=True)
    variables: dict[str, str] = {}
    link = None
    if database_url is not None:
        url = make_url(database_url)
        # Not in the test's own folder, whose name is too long for a socket.
        sockets = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hc-")))
        real = Path(str(url.query["host"])) / _SOCKET
        link = await stack.enter_async_context(faulty_socket(real, sockets / _SOCKET))
        through = url.set(query={"host": str(sockets)})
        variables["HANDCLASP_CERTIFICATES_DATABASE_URL"] = through.render_as_string(hide_password=False)
    if deaf:
        variables["HANDCLASP_CERTIFICATES_DATABASE_NOTIFICATIONS"] = "false"
    if number:
        await asyncio.to_thread(share_keys, found.first.data_dir, deployment.data_dir)
    process = await asyncio.to_thread(deployment.certificates, variables)
    return Replica(f"replica-{number}", deployment, variables, link, process)
