"""Revocation is in force when the call returns: real processes that are stopped, cut off, killed."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import pytest_asyncio

from handclasp.certificates.v1 import certificate_service_pb2 as messages
from handclasp.client.client import HandclaspClient
from handclasp.errors import HandclaspError, Reason
from handclasp.integrations.v1.integration_service_pb2 import ExecuteIntegrationRequest
from tests.e2e.clients import administrator, client_of
from tests.e2e.processes import Deployment, Process
from tests.support.faulty_link import FaultyLink, Flow, faulty_link

pytestmark = pytest.mark.timeout(180)

LEASE = 2.0
NOT_ALLOWED = {Reason.AUTHORIZER_UNAVAILABLE, Reason.CERTIFICATE_NOT_ACCEPTED}
SLEEPER = '''
"""Integrations for tests."""

import asyncio
from pathlib import Path

from pydantic import BaseModel

from handclasp.authoring import integration


class Sleep(BaseModel):
    seconds: float
    begun: str


@integration(name="sleep", version="1.0.0", timeout=60)
async def sleep(value: Sleep) -> Sleep:
    """Sleeps, once the file that is named there says so."""
    Path(value.begun).touch()
    await asyncio.sleep(value.seconds)
    return value
'''


@dataclass
class Scene:
    """A certificate service, an execution server that reaches it over a link that can be cut, and their users."""

    deployment: Deployment
    link: FaultyLink
    service: Process
    executions: Process
    admin: HandclaspClient
    stack: AsyncExitStack
    _users: int = field(default=0)

    async def user(self) -> tuple[str, HandclaspClient]:
        """A certificate's name, and a client that presents it and has been allowed something."""
        self._users += 1
        name = f"user-{self._users}"
        run = self.deployment.run
        (await asyncio.to_thread(run, "user", "create", name, "--profile", "regular-user")).json()
        issued = (await asyncio.to_thread(run, "cert", "issue", "--user", name, "--out", name)).json()
        client = await self.stack.enter_async_context(client_of(self.deployment, self.deployment.folder / name))
        await echo(client)
        return f"certificates/{issued['id']}", client

    async def revoke(self, certificate: str) -> float:
        """Revokes; how many seconds it took."""
        begin = time.monotonic()
        await self.admin.certificates.RevokeCertificate(messages.RevokeCertificateRequest(name=certificate))
        return time.monotonic() - begin


async def echo(client: HandclaspClient) -> None:
    request = ExecuteIntegrationRequest(name="integrations/echo", input_json='{"hello": "world"}')
    assert json.loads((await client.integrations.ExecuteIntegration(request)).output_json) == {"hello": "world"}


async def sleep(client: HandclaspClient, seconds: float, begun: Path) -> None:
    what = json.dumps({"seconds": seconds, "begun": str(begun)})
    request = ExecuteIntegrationRequest(name="integrations/sleep", input_json=what)
    await client.integrations.ExecuteIntegration(request)


async def refused(call: Awaitable[None]) -> str:
    """Why a call was refused."""
    with pytest.raises(HandclaspError) as caught:
        await call
    return caught.value.reason


async def until(condition: Callable[[], Awaitable[bool]], what: str, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.05)


async def is_allowed(client: HandclaspClient) -> bool:
    try:
        await echo(client)
    except HandclaspError as error:
        if error.reason not in NOT_ALLOWED:
            raise
        return False
    return True


@pytest_asyncio.fixture
async def scene(folder: Path) -> AsyncIterator[Scene]:
    deployment = Deployment(folder)
    integrations = folder / "integrations"
    integrations.mkdir()
    (integrations / "sleeper.py").write_text(SLEEPER)
    async with AsyncExitStack() as stack:
        service = await asyncio.to_thread(deployment.certificates)
        stack.callback(service.kill)
        await asyncio.to_thread(deployment.issue_execution_identity)
        link = await stack.enter_async_context(faulty_link(deployment.ports["mtls"]))
        executions = await asyncio.to_thread(
            lambda: deployment.execution_server(
                service_port=link.port,
                variables={"HANDCLASP_EXECUTIONS_INTEGRATIONS_FOLDER": str(integrations)},
            )
        )
        stack.callback(executions.kill)
        admin = await stack.enter_async_context(administrator(deployment))
        yield Scene(deployment, link, service, executions, admin, stack)


async def test_a_stopped_execution_server_is_waited_for_and_allows_nothing_when_it_goes_on(scene: Scene) -> None:
    certificate, client = await scene.user()
    scene.executions.popen.send_signal(signal.SIGSTOP)
    try:
        took = await scene.revoke(certificate)
        # Sent to a process that is frozen: it finds the call when it goes on, beside all that it missed.
        first = asyncio.create_task(refused(echo(client)))
        await asyncio.sleep(0.1)
    finally:
        scene.executions.popen.send_signal(signal.SIGCONT)
    assert took > LEASE / 2, "its lease was renewed a moment before it was stopped"
    assert await first in NOT_ALLOWED
    assert await refused(echo(client)) == Reason.CERTIFICATE_NOT_ACCEPTED
    _, other = await scene.user()
    await echo(other)


@pytest.mark.parametrize(
    ("there", "back"),
    [(Flow.SWALLOW, Flow.PASS), (Flow.PASS, Flow.SWALLOW), (Flow.SWALLOW, Flow.SWALLOW), (Flow.HOLD, Flow.HOLD)],
    ids=["questions lost", "answers lost", "both lost", "both late"],
)
async def test_one_that_is_cut_off_says_yes_to_nothing_that_was_revoked(scene: Scene, there: Flow, back: Flow) -> None:
    certificate, client = await scene.user()
    _, other = await scene.user()
    await scene.link.set(there, back)
    await echo(client)
    await scene.revoke(certificate)
    assert await refused(echo(client)) in NOT_ALLOWED
    # Once its lease is over it says yes to nobody: it fails closed.
    await asyncio.sleep(LEASE)
    assert await refused(echo(other)) == Reason.AUTHORIZER_UNAVAILABLE
    await scene.link.heal()
    assert await refused(echo(client)) in NOT_ALLOWED
    await until(lambda: is_allowed(other), "it comes back by itself")
    assert await refused(echo(client)) == Reason.CERTIFICATE_NOT_ACCEPTED


async def test_a_service_that_is_killed_waits_for_leases_that_it_knows_nothing_of(scene: Scene) -> None:
    """Rule 13. The execution server cannot reach the new process, and has a lease of the old one."""
    certificate, client = await scene.user()
    await scene.link.set(Flow.SWALLOW, Flow.SWALLOW)
    scene.service.kill()
    began = time.monotonic()
    scene.service = await asyncio.to_thread(scene.deployment.certificates)
    scene.stack.callback(scene.service.kill)
    async with administrator(scene.deployment) as admin:
        await admin.certificates.RevokeCertificate(messages.RevokeCertificateRequest(name=certificate))
    assert time.monotonic() - began > LEASE
    assert await refused(echo(client)) in NOT_ALLOWED


async def test_a_restart_of_the_service_loses_nothing_and_resets_nothing(scene: Scene) -> None:
    certificate, client = await scene.user()
    _, other = await scene.user()
    scene.service.kill()
    scene.service = await asyncio.to_thread(scene.deployment.certificates)
    scene.stack.callback(scene.service.kill)
    await until(lambda: is_allowed(client), "it comes back by itself")
    async with administrator(scene.deployment) as admin:
        await admin.certificates.RevokeCertificate(messages.RevokeCertificateRequest(name=certificate))
    assert await refused(echo(client)) == Reason.CERTIFICATE_NOT_ACCEPTED
    await echo(other)
    log = (scene.deployment.folder / "executions.log").read_text()
    assert log.count("knowledge_reset") == 1, "at its first stream, and never again"


async def test_calls_in_progress_end_when_what_they_rest_on_is_taken_away(scene: Scene) -> None:
    certificate, client = await scene.user()
    _, other = await scene.user()
    begun = [scene.deployment.folder / "first begun", scene.deployment.folder / "second begun"]
    running = asyncio.create_task(refused(sleep(client, 50, begun[0])))
    staying = asyncio.create_task(sleep(other, 3, begun[1]))

    async def both() -> bool:
        return all(path.exists() for path in begun)

    await until(both, "both calls run")
    await scene.revoke(certificate)
    assert await asyncio.wait_for(running, 10) == Reason.AUTHORIZATION_WITHDRAWN
    await staying


async def test_an_execution_server_that_is_killed_holds_nothing_up_for_longer_than_its_lease(scene: Scene) -> None:
    first, *others = [(await scene.user())[0] for _ in range(4)]
    scene.executions.kill()
    assert await scene.revoke(first) < 3 * LEASE
    assert min([await scene.revoke(other) for other in others]) < LEASE / 2, "by now nobody has a lease"
