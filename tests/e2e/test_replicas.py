"""Three certificate services on one PostgreSQL: one of them is killed, frozen, cut off; the database is restarted."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psycopg
import pytest
import pytest_asyncio
from sqlalchemy import make_url

from handclasp.accounts.v1 import account_service_pb2 as accounts
from handclasp.accounts.v1.user_pb2 import User
from handclasp.certificates.v1 import certificate_service_pb2 as messages
from handclasp.client.client import HandclaspClient
from handclasp.client.csr import make_key_and_request
from handclasp.errors import DeadlineExceeded, HandclaspError, Reason, Unavailable
from handclasp.integrations.v1.integration_service_pb2 import ExecuteIntegrationRequest
from tests.e2e.fleet import Fleet, fleet
from tests.e2e.processes import Deployment, environment, run_command
from tests.support.faulty_link import Flow
from tests.support.postgres import PostgresRun, PostgresServer

pytestmark = pytest.mark.timeout(240)

LEASE = 2.0
NOT_ALLOWED = {Reason.AUTHORIZER_UNAVAILABLE, Reason.CERTIFICATE_NOT_ACCEPTED}
_ECHO = ExecuteIntegrationRequest(name="integrations/echo", input_json="{}")


@dataclass
class Holder:
    """A certificate, and a client at each execution server."""

    certificate: str
    clients: list[HandclaspClient]


class Scene:
    """A fleet, and clients of it."""

    def __init__(self, running: Fleet, stack: AsyncExitStack) -> None:
        self.fleet = running
        self.stack = stack
        self.admins: list[HandclaspClient] = []

    async def connect(self) -> None:
        for replica in self.fleet.replicas:
            self.admins.append(await self.stack.enter_async_context(self.fleet.administrator(replica)))
        user = User(access_profiles=["accessProfiles/regular-user"])
        await self.admins[0].accounts.CreateUser(accounts.CreateUserRequest(user_id="alice", user=user))

    async def holder(self, replica: int = 0) -> Holder:
        """Somebody who was allowed something at every execution server a moment ago."""
        made = make_key_and_request("alice")
        request = messages.IssueCertificateRequest(user="users/alice", csr_pem=made.csr_pem.decode())
        issued = (await self.admins[replica].certificates.IssueCertificate(request)).certificate
        clients = []
        for server in self.fleet.servers:
            client = self.fleet.client(server, issued.pem.encode(), made.key_pem)
            clients.append(await self.stack.enter_async_context(client))
        for client in clients:
            await until_allowed(client)
        return Holder(issued.name, clients)

    async def revoke(self, holder: Holder, replica: int = 0) -> float:
        """Revokes at one of the services; how many seconds it took."""
        begin = time.monotonic()
        await self.admins[replica].certificates.RevokeCertificate(
            messages.RevokeCertificateRequest(name=holder.certificate)
        )
        return time.monotonic() - begin


async def refused(client: HandclaspClient) -> str:
    with pytest.raises(HandclaspError) as caught:
        await client.integrations.ExecuteIntegration(_ECHO, timeout=15)
    return caught.value.reason


async def until_allowed(client: HandclaspClient) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            await client.integrations.ExecuteIntegration(_ECHO, timeout=15)
        except HandclaspError:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)
        else:
            return


@pytest_asyncio.fixture
async def scene(folder: Path, postgres: PostgresServer) -> AsyncIterator[Scene]:
    with postgres.database() as url:
        async with fleet(folder, database_url=url, replicas=3, servers=3) as running, AsyncExitStack() as stack:
            it = Scene(running, stack)
            await it.connect()
            yield it


async def test_a_revocation_at_one_is_in_force_at_all(scene: Scene) -> None:
    for replica in range(3):
        holder = await scene.holder((replica + 1) % 3)
        took = await scene.revoke(holder, replica)
        assert [await refused(client) for client in holder.clients] == [Reason.CERTIFICATE_NOT_ACCEPTED] * 3
        assert took < LEASE, "nobody's lease had to be waited for"


async def test_one_that_is_killed_leaves_a_lease_that_runs_out(scene: Scene) -> None:
    holders = [await scene.holder() for _ in range(6)]
    scene.fleet.replicas[1].kill()
    took = []
    for number, holder in enumerate(holders):
        took.append(await scene.revoke(holder, replica=2 * (number % 2)))
        for client in holder.clients:
            assert await refused(client) in NOT_ALLOWED
    assert max(took) < 3 * LEASE
    assert min(took[3:]) < LEASE / 2, "by now it is forgotten"
    await scene.fleet.replicas[1].start()
    again = await scene.holder()
    await scene.revoke(again, replica=1)
    assert [await refused(client) for client in again.clients] == [Reason.CERTIFICATE_NOT_ACCEPTED] * 3


async def test_one_that_is_frozen_grants_nothing_that_outlasts_its_own_lease(scene: Scene) -> None:
    holder = await scene.holder()
    process = scene.fleet.replicas[1].process.popen
    process.send_signal(signal.SIGSTOP)
    try:
        took = await scene.revoke(holder)
        assert LEASE / 3 < took < 4 * LEASE
        for client in holder.clients:
            assert await refused(client) in NOT_ALLOWED
    finally:
        process.send_signal(signal.SIGCONT)
    # It finds that its lease is over, and comes back under a new id.
    after = await scene.holder(replica=1)
    await scene.revoke(after, replica=1)
    assert [await refused(client) for client in after.clients] == [Reason.CERTIFICATE_NOT_ACCEPTED] * 3


async def test_one_that_is_cut_off_from_the_database_stops_granting_leases(scene: Scene) -> None:
    """Its watchers still reach it, and it answers their pings with nothing."""
    holder = await scene.holder()
    link = scene.fleet.replicas[1].database
    assert link is not None
    await link.set(Flow.SWALLOW, Flow.SWALLOW)
    took = await scene.revoke(holder)
    assert took < 4 * LEASE
    for client in holder.clients:
        assert await refused(client) in NOT_ALLOWED
    await link.heal()
    await until_settled(scene)


async def until_settled(scene: Scene) -> None:
    """Everybody is let in again, everywhere, and nothing has to be waited for."""
    after = await scene.holder()
    deadline = time.monotonic() + 30
    while await scene.revoke(after) > LEASE / 2:
        assert time.monotonic() < deadline
        after = await scene.holder()


async def test_one_that_hears_no_notifications_reads_them(folder: Path, postgres: PostgresServer) -> None:
    deaf = frozenset({0, 1})
    with postgres.database() as url:
        async with (
            fleet(folder, database_url=url, replicas=2, servers=2, deaf=deaf) as running,
            AsyncExitStack() as stack,
        ):
            scene = Scene(running, stack)
            await scene.connect()
            for replica in range(2):
                holder = await scene.holder()
                took = await scene.revoke(holder, replica)
                assert [await refused(client) for client in holder.clients] == [Reason.CERTIFICATE_NOT_ACCEPTED] * 2
                assert took < LEASE, "what the other one's renewal says is enough"


async def test_a_restart_of_the_database_under_load(folder: Path) -> None:
    """What cannot be decided is not allowed, what was revoked stays revoked, and all come back by themselves."""
    run = PostgresRun.begin()
    try:
        with run.server().database() as url:
            async with fleet(folder, database_url=url, replicas=2, servers=2) as running, AsyncExitStack() as stack:
                scene = Scene(running, stack)
                await scene.connect()
                gone, steady = await scene.holder(), await scene.holder()
                await scene.revoke(gone)
                calling = [
                    asyncio.create_task(call_on(client, allowed))
                    for holder, allowed in ((gone, False), (steady, True))
                    for client in holder.clients
                ]
                revoking = asyncio.create_task(revoke_on(scene))
                await asyncio.sleep(0.5)
                await asyncio.to_thread(run.restart)
                await asyncio.sleep(2)
                for task in calling:
                    task.cancel()
                outcomes = await asyncio.gather(*calling, return_exceptions=True)
                assert not [one for one in outcomes if not isinstance(one, asyncio.CancelledError)]
                revoking.cancel()
                await asyncio.gather(revoking, return_exceptions=True)
                await until_settled(scene)
                for client in steady.clients:
                    await until_allowed(client)
    finally:
        await asyncio.to_thread(run.end)


async def call_on(client: HandclaspClient, allowed: bool) -> None:
    """Calls until cancelled. What is refused for good must not be allowed, and the other way round."""
    while True:
        try:
            await client.integrations.ExecuteIntegration(_ECHO, timeout=15)
        except (Unavailable, DeadlineExceeded):
            await asyncio.sleep(0.05)
        except HandclaspError as error:
            if allowed or error.reason not in NOT_ALLOWED:
                raise
        else:
            assert allowed
        await asyncio.sleep(0.01)


async def revoke_on(scene: Scene) -> None:
    """Issues and revokes until cancelled, as far as the database lets it."""
    while True:
        try:
            holder = await scene.holder()
            await scene.revoke(holder)
            for client in holder.clients:
                assert await refused(client) in NOT_ALLOWED
        except (Unavailable, DeadlineExceeded):
            await asyncio.sleep(0.1)


async def test_a_backup_that_is_restored_under_them_is_heeded_by_all(folder: Path, postgres: PostgresServer) -> None:
    """All stay up. What is taken away from then on is in force when the call returns, as ever."""
    with postgres.database() as url:
        name, saved = str(make_url(url).database), f"{make_url(url).database}_saved"
        async with fleet(folder, database_url=url, replicas=2, servers=2) as running, AsyncExitStack() as stack:
            scene = Scene(running, stack)
            await scene.connect()
            before = [await scene.holder(number % 2) for number in range(3)]
            with psycopg.connect(
                host=str(postgres.folder), user="postgres", dbname="postgres", autocommit=True
            ) as admin:
                await asyncio.to_thread(alone_with, admin, name, f"CREATE DATABASE {saved} TEMPLATE {name}")
                await repeated_until_answered(partial(until_settled, scene))
                lost = await scene.holder()
                await scene.revoke(await scene.holder(1), 1)
                # Some of both histories have the same numbers.
                await asyncio.to_thread(
                    alone_with,
                    admin,
                    name,
                    f"DROP DATABASE {name} WITH (FORCE)",
                    f"ALTER DATABASE {saved} RENAME TO {name}",
                )
            for number, holder in enumerate(before):
                await repeated_until_answered(partial(scene.revoke, holder, number % 2))
                for client in holder.clients:
                    assert await refused(client) in NOT_ALLOWED
            await repeated_until_answered(partial(until_settled, scene))
            for client in lost.clients:
                assert await refused(client) in NOT_ALLOWED, "it is not on file any more"
            again = await scene.holder(1)
            assert await scene.revoke(again) < LEASE, "by acknowledgements"
            assert [await refused(client) for client in again.clients] == [Reason.CERTIFICATE_NOT_ACCEPTED] * 2
            assert all(replica.process.popen.poll() is None for replica in running.replicas)


def alone_with(admin: psycopg.Connection, name: str, *statements: str) -> None:
    """Runs statements that nobody may be connected to the database for; it is open for all again afterwards."""
    admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    admin.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", (name,))
    for statement in statements:
        admin.execute(statement)
    admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")


async def repeated_until_answered(call: Callable[[], Awaitable[object]]) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            await call()
        except (Unavailable, DeadlineExceeded):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)
        else:
            return


def test_a_second_process_on_one_sqlite_file_is_refused(folder: Path) -> None:
    deployment = Deployment(folder)
    url = f"sqlite+aiosqlite:///{folder / 'shared.sqlite'}"
    with deployment.certificates({"HANDCLASP_CERTIFICATES_DATABASE_URL": url}):
        other = folder / "other"
        arguments = ("serve", "certificates", "--data-dir", other, "--tls-port", "0", "--mtls-port", "0")
        refused = run_command(
            *arguments,
            *("--health-port", "0"),
            folder=folder,
            variables=environment(HANDCLASP_CERTIFICATES_DATABASE_URL=url),
        )
    assert refused.status == 1
    assert "is served by another process" in refused.errors
    assert "PostgreSQL" in refused.errors
