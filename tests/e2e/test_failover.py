"""Relying parties of several certificate services: one of those is killed, frozen, or restarted, and no call fails."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import pytest
import pytest_asyncio
import structlog
from structlog.testing import capture_logs

from handclasp.certificates.v1 import certificate_service_pb2 as messages
from handclasp.client import HandclaspClient, items
from handclasp.client.csr import make_key_and_request
from handclasp.errors import HandclaspError, Unauthenticated
from handclasp.relying_party import EXECUTE_INTEGRATIONS, Options, RelyingParty
from handclasp.serving.peer import Peer
from tests.e2e.clients import administrator
from tests.e2e.fleet import Fleet, Replica, fleet
from tests.support.installation import read_identity
from tests.support.postgres import PostgresServer

pytestmark = pytest.mark.timeout(240)

LEASE = 2.0
T = TypeVar("T")
RESOURCE = "integrations/echo"


@dataclass
class Observed:
    """What callers of a relying party saw, and its lease."""

    calls: int = 0
    errors: list[HandclaspError] = field(default_factory=list)
    longest: float = 0.0
    least_lease: float = LEASE

    def __str__(self) -> str:
        return (
            f"{self.calls} calls, {len(self.errors)} failed, the longest took {self.longest:.2f} s; "
            f"at least {self.least_lease:.2f} s of the lease were left"
        )


@dataclass
class Scene:
    fleet: Fleet
    addresses: list[str]
    party: RelyingParty
    peer: Peer
    certificate: str
    logs: list[structlog.types.EventDict]

    @property
    def watched(self) -> Replica:
        """The replica that the relying party watches."""
        welcomed = [entry["address"] for entry in self.logs if entry["event"] == "watch_welcomed"]
        return self.fleet.replicas[self.addresses.index(welcomed[-1])]

    async def ask(self) -> None:
        await self.party.authorizer.require(self.peer, EXECUTE_INTEGRATIONS, RESOURCE)

    async def observe(self, observed: Observed) -> None:
        """Asks without end, so that each question goes to one of the replicas."""
        while True:
            begin = time.monotonic()
            try:
                await self.ask()
            except HandclaspError as error:
                observed.errors.append(error)
            observed.calls += 1
            observed.longest = max(observed.longest, time.monotonic() - begin)
            await asyncio.sleep(0.01)

    async def look_at_lease(self, observed: Observed) -> None:
        while True:
            observed.least_lease = min(observed.least_lease, -self.party._knowledge.since_lease_end())
            await asyncio.sleep(0.005)

    async def observed_during(self, happening: Callable[[], Awaitable[None]]) -> Observed:
        """What is seen while something happens, and for two leases after it."""
        observed = Observed()
        work = [asyncio.create_task(self.look_at_lease(observed))]
        work += [asyncio.create_task(self.observe(observed)) for _ in range(4)]
        await asyncio.sleep(1)
        await happening()
        await asyncio.sleep(2 * LEASE)
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)
        return observed


@pytest_asyncio.fixture
async def scene(folder: Path, postgres: PostgresServer) -> AsyncIterator[Scene]:
    with postgres.database() as url:
        async with fleet(folder, database_url=url, replicas=2, servers=0) as running, AsyncExitStack() as stack:
            first = running.first

            def set_up() -> str:
                first.issue_execution_identity()
                first.run("user", "create", "alice", "--profile", "regular-user").json()
                issued = first.run("cert", "issue", "--user", "alice", "--out", folder / "alice").json()
                return f"certificates/{issued['id']}"

            certificate = await asyncio.to_thread(set_up)
            own = first.identity("executions")
            logs = stack.enter_context(capture_logs())
            addresses = [f"localhost:{replica.deployment.ports['mtls']}" for replica in running.replicas]
            party = RelyingParty(
                ",".join(addresses),
                ca_file=first.data_dir / "ca.pem",
                certificate=own / "cert.pem",
                key=own / "key.pem",
                options=Options(max_decisions=0),
            )
            peer = Peer("", read_identity(folder / "alice").der, None)
            made = Scene(running, addresses, await stack.enter_async_context(party), peer, certificate, logs)
            await made.ask()
            yield made


@dataclass
class Used:
    """What a client saw that reads and issues all the time."""

    reads: int = 0
    issued: list[str] = field(default_factory=list)
    longest: float = 0.0
    errors: list[HandclaspError] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.reads} reads and {len(self.issued)} certificates, {len(self.errors)} calls failed; "
            f"the longest took {self.longest:.2f} s"
        )


async def used_during(scene: Scene, happening: Callable[[], Awaitable[None]]) -> Used:
    """What a client of both replicas sees while something happens, and for two seconds after it."""
    used, over = Used(), asyncio.Event()

    async def timed(call: Awaitable[T]) -> T | None:
        begin = time.monotonic()
        try:
            return await call
        except HandclaspError as error:
            used.errors.append(error)
            return None
        finally:
            used.longest = max(used.longest, time.monotonic() - begin)

    async def read(client: HandclaspClient) -> None:
        while not over.is_set():
            await timed(client.certificates.ListCertificates(messages.ListCertificatesRequest(page_size=1)))
            used.reads += 1
            await asyncio.sleep(0.01)

    async def issue(client: HandclaspClient) -> None:
        csr = make_key_and_request("alice").csr_pem.decode()
        while not over.is_set():
            request = messages.IssueCertificateRequest(user="users/alice", csr_pem=csr)
            answer = await timed(client.certificates.IssueCertificate(request))
            if answer is not None:
                used.issued.append(answer.certificate.name)
            await asyncio.sleep(0.01)

    async with administrator(scene.fleet.first, ",".join(scene.addresses)) as client:
        before = await count_certificates(client)
        work = [asyncio.create_task(read(client)), asyncio.create_task(issue(client))]
        await asyncio.sleep(1)
        await happening()
        await asyncio.sleep(2)
        over.set()
        await asyncio.gather(*work)
        assert await count_certificates(client) == before + len(used.issued), "each is there once, and no other"
    return used


async def count_certificates(client: HandclaspClient) -> int:
    request = messages.ListCertificatesRequest(user="users/alice", page_size=1000)
    pages = items(client.certificates.ListCertificates, request, lambda page: list(page.certificates), None)
    return len([one async for one in pages])


async def revoke(scene: Scene) -> None:
    """And the next call is refused, by whichever replica it is decided."""
    async with administrator(scene.fleet.first) as admin:
        await admin.certificates.RevokeCertificate(messages.RevokeCertificateRequest(name=scene.certificate))
    with pytest.raises(Unauthenticated):
        await scene.ask()


async def test_the_watched_one_is_killed(scene: Scene) -> None:
    killed = scene.watched

    async def kill() -> None:
        killed.kill()

    observed = await scene.observed_during(kill)
    print(f"kill -9: {observed}")
    assert not observed.errors
    assert observed.calls > 50
    assert observed.least_lease > 0
    assert scene.watched != killed
    await killed.start()
    await revoke(scene)


async def test_the_watched_one_is_frozen(scene: Scene) -> None:
    frozen = scene.watched

    async def freeze() -> None:
        frozen.process.popen.send_signal(signal.SIGSTOP)

    observed = await scene.observed_during(freeze)
    print(f"SIGSTOP: {observed}")
    assert not observed.errors
    assert observed.calls > 50
    assert observed.least_lease > 0
    assert scene.watched != frozen
    frozen.process.popen.send_signal(signal.SIGCONT)
    await revoke(scene)


async def test_one_after_the_other_is_restarted(scene: Scene) -> None:
    async def restart() -> None:
        for replica in scene.fleet.replicas:
            await asyncio.to_thread(replica.process.stop)
            await replica.start()
            await asyncio.sleep(1)

    observed = await scene.observed_during(restart)
    print(f"rolling restart: {observed}")
    assert not observed.errors
    assert observed.calls > 50
    assert observed.least_lease > 0
    used = await used_during(scene, restart)
    print(f"rolling restart, a client: {used}")
    assert not used.errors
    assert used.issued
    await revoke(scene)


async def test_a_client_does_not_notice_that_one_is_killed(scene: Scene) -> None:
    async def kill() -> None:
        scene.fleet.replicas[1].kill()

    used = await used_during(scene, kill)
    print(f"kill -9, a client: {used}")
    assert not used.errors
    assert used.issued
