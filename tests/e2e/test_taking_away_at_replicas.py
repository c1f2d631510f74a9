"""Three certificate services on one PostgreSQL, and clients of all three: whatever happens to one of them, what takes
something away returns within twice the lease and a connect time, and is in force then."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from handclasp.accounts.v1 import account_service_pb2 as accounts
from handclasp.accounts.v1.user_pb2 import User
from handclasp.certificates.v1 import certificate_service_pb2 as messages
from handclasp.certificates.v1.certificate_pb2 import Certificate
from handclasp.client import HandclaspClient
from handclasp.client.csr import make_key_and_request
from handclasp.errors import NotFound
from tests.e2e.clients import administrator
from tests.e2e.fleet import Fleet, Replica, fleet
from tests.e2e.processes import run_command
from tests.support.outside_ca import OutsideCA
from tests.support.postgres import PostgresServer

pytestmark = [pytest.mark.campaign, pytest.mark.timeout(400)]

LEASE = 2.0
CONNECT = 2.0
"""Seconds that it may take to connect."""


async def frozen(replica: Replica) -> None:
    replica.process.popen.send_signal(signal.SIGSTOP)


async def killed(replica: Replica) -> None:
    replica.kill()


async def restarted(replica: Replica) -> None:
    await asyncio.to_thread(replica.process.stop)
    await replica.start()


@dataclass
class Begun:
    """Calls that take away, and what is so after them."""

    states: dict[str, Certificate.State.ValueType]
    disabled: str
    removed: str
    calls: list[Callable[[], Awaitable[object]]]

    async def check(self, scene: Scene, healthy: Replica) -> None:
        """What was taken away is gone, says a service that nothing happened to."""
        async with scene.fleet.administrator(healthy) as at_one:
            for name, state in self.states.items():
                found = await at_one.certificates.GetCertificate(messages.GetCertificateRequest(name=name))
                assert found.state == state
            user = await at_one.accounts.GetUser(accounts.GetUserRequest(name=self.disabled))
            assert user.state == User.STATE_DISABLED
            with pytest.raises(NotFound):
                await at_one.certificates.RemoveTrustAnchor(messages.RemoveTrustAnchorRequest(name=self.removed))


@dataclass
class Scene:
    """The services, a client that is connected to all of them, and a context file that names them all."""

    fleet: Fleet
    client: HandclaspClient
    context: Path
    command: float = 0.0
    """Seconds that a taking-away by the command takes when nothing happens."""
    made: int = 0

    async def certificate(self) -> str:
        """Of a user of its own."""
        self.made += 1
        user = f"user-{self.made}"
        await self.client.accounts.CreateUser(accounts.CreateUserRequest(user_id=user))
        request = make_key_and_request(user).csr_pem.decode()
        issue = messages.IssueCertificateRequest(user=f"users/{user}", csr_pem=request)
        return (await self.client.certificates.IssueCertificate(issue)).certificate.name

    async def begin_to_take_away(self) -> Begun:
        """One of each kind, and more of them than there are services: each service is the first that one is sent to."""
        revoked, held, owned, disabled = [await self.certificate() for _ in range(4)]
        anchor = messages.AddTrustAnchorRequest(pem=OutsideCA(f"outside {self.made}").pem)
        removed = (await self.client.certificates.AddTrustAnchor(anchor)).name
        client, accounts_stub = self.client.certificates, self.client.accounts
        all_of = messages.RevokeUserCertificatesRequest(user=await self.owner(owned))
        disable = accounts.DisableUserRequest(name=await self.owner(disabled))
        states = {revoked: Certificate.STATE_REVOKED, held: Certificate.STATE_ON_HOLD, owned: Certificate.STATE_REVOKED}
        return Begun(
            states,
            disable.name,
            removed,
            [
                lambda: client.RevokeCertificate(messages.RevokeCertificateRequest(name=revoked)),
                lambda: client.HoldCertificate(messages.HoldCertificateRequest(name=held)),
                lambda: client.RevokeUserCertificates(all_of),
                lambda: accounts_stub.DisableUser(disable),
                lambda: client.RemoveTrustAnchor(messages.RemoveTrustAnchorRequest(name=removed)),
            ],
        )

    async def owner(self, certificate: str) -> str:
        """Whose it is."""
        return (await self.client.certificates.GetCertificate(messages.GetCertificateRequest(name=certificate))).user

    async def revoke_by_command(self, certificate: str) -> float:
        """How many seconds it took."""
        begin = time.monotonic()
        arguments = ("cert", "revoke", certificate.removeprefix("certificates/"), "-o", "json")
        done = await asyncio.to_thread(run_command, *arguments, folder=self.fleet.folder, context=self.context)
        assert done.json()["state"] == "STATE_REVOKED", done
        return time.monotonic() - begin

    async def recover(self, replica: Replica) -> None:
        """As it was before something happened."""
        replica.process.popen.send_signal(signal.SIGCONT)
        if replica.process.popen.poll() is not None:
            await replica.start()
        # All are connected to again, and nobody's lease is left to run out.
        await asyncio.sleep(3 * LEASE)
        for _ in range(6):
            await self.client.accounts.ListUsers(accounts.ListUsersRequest())


@pytest_asyncio.fixture
async def scene(folder: Path, postgres: PostgresServer) -> AsyncIterator[Scene]:
    with postgres.database() as url:
        async with fleet(folder, database_url=url, replicas=3, servers=2) as running, AsyncExitStack() as stack:
            addresses = ",".join(f"localhost:{replica.deployment.ports['mtls']}" for replica in running.replicas)
            client = await stack.enter_async_context(administrator(running.first, addresses))
            written = running.first.context_file.read_text(encoding="utf-8")
            lines = [
                f'certificates_mtls = "{addresses}"' if line.startswith("certificates_mtls") else line
                for line in written.splitlines()
            ]
            context = running.first.data_dir / "all.toml"
            context.write_text("\n".join(lines) + "\n", encoding="utf-8")
            context.chmod(0o600)
            yield Scene(running, client, context)


@pytest.mark.parametrize("happens", [frozen, killed, restarted])
async def test_a_taking_away_returns_soon_whatever_happens_to_one(
    scene: Scene, happens: Callable[[Replica], Awaitable[None]]
) -> None:
    """Before the calls and during them, while a relying party that is frozen has all of them wait; by a client that is
    connected to all of them, and by the command, which begins with any."""
    quiet = await scene.revoke_by_command(await scene.certificate())
    bound = 2 * LEASE + CONNECT
    victim, healthy = scene.fleet.replicas[1:]
    relying_party = scene.fleet.servers[1].process.popen
    for meanwhile in (False, True):
        begun = await scene.begin_to_take_away()
        by_command = [await scene.certificate() for _ in range(3)]
        if meanwhile:
            relying_party.send_signal(signal.SIGSTOP)
            work = [asyncio.ensure_future(timed(call)) for call in begun.calls]
            await asyncio.sleep(0.3)
            happening = asyncio.ensure_future(happens(victim))
        else:
            happening = asyncio.ensure_future(happens(victim))
            await asyncio.sleep(0.3)
            work = [asyncio.ensure_future(timed(call)) for call in begun.calls]
        took = await asyncio.gather(*work)
        print(f"{happens.__name__}, {'during' if meanwhile else 'before'}: {[f'{seconds:.2f}' for seconds in took]} s")
        assert max(took) < bound
        await begun.check(scene, healthy)
        took = [await scene.revoke_by_command(name) for name in by_command]
        print(f"by the command: {[f'{seconds:.2f}' for seconds in took]} s, {quiet:.2f} s when nothing happens")
        # On a machine that may be starting a service meanwhile.
        assert max(took) < bound + 3 * quiet
        await happening
        relying_party.send_signal(signal.SIGCONT)
        await scene.recover(victim)


async def timed(call: Callable[[], Awaitable[object]]) -> float:
    """Seconds until it returned."""
    begin = time.monotonic()
    await call()
    return time.monotonic() - begin
