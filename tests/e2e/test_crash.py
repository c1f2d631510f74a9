"""`kill -9` in the middle of work: what was acknowledged stays, and what was not can be tried again."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import sqlite3
import ssl
from pathlib import Path

import pytest

from handclasp.authorization.v1.permission_pb2 import PERMISSION_EXECUTE_INTEGRATIONS
from handclasp.certificates.v1 import certificate_service_pb2 as messages
from handclasp.certificates.v1.certificate_pb2 import Certificate
from handclasp.client.client import HandclaspClient
from handclasp.client.csr import make_key_and_request
from handclasp.client.paging import items
from handclasp.errors import HandclaspError, Unavailable
from handclasp.integrations.v1.integration_service_pb2 import ExecuteIntegrationRequest
from tests.e2e.clients import administrator, client_of
from tests.e2e.processes import Deployment, Process

AT_ONCE = 100


def issue_requests(user: str) -> list[messages.IssueCertificateRequest]:
    return [
        messages.IssueCertificateRequest(
            user=f"users/{user}",
            csr_pem=make_key_and_request(user).csr_pem.decode(),
            request_id=f"{user}-request-{number}",
        )
        for number in range(AT_ONCE)
    ]


class Issuing:
    """A hundred concurrent issues; a process is killed once some have been acknowledged."""

    def __init__(self, requests: list[messages.IssueCertificateRequest]) -> None:
        self.requests = requests
        self.acknowledged: dict[str, Certificate] = {}
        self.lost: list[messages.IssueCertificateRequest] = []

    async def run(self, client: HandclaspClient, victim: Process, moment: random.Random) -> None:
        """Kills `victim` after a random number of acknowledgements and a random time after that."""
        self._enough = moment.randrange(AT_ONCE)
        self._reached = asyncio.Event()
        killing = asyncio.create_task(self._kill(victim, delay=moment.uniform(0, 0.01)))
        if self._enough == 0:
            self._reached.set()
        await asyncio.gather(*(self._issue(client, request) for request in self.requests))
        await killing

    async def _issue(self, client: HandclaspClient, request: messages.IssueCertificateRequest) -> None:
        try:
            answer = await client.certificates.IssueCertificate(request)
        except Unavailable:
            self.lost.append(request)
            return
        self.acknowledged[request.request_id] = answer.certificate
        if len(self.acknowledged) >= self._enough:
            self._reached.set()

    async def _kill(self, victim: Process, delay: float) -> None:
        await self._reached.wait()
        await asyncio.sleep(delay)
        victim.popen.kill()
        await asyncio.to_thread(victim.popen.wait)


def check_integrity(database: Path, scratch: Path) -> None:
    """Of a copy, so that it is the service that has to recover the original."""
    scratch.mkdir()
    for path in database.parent.glob(f"{database.name}*"):
        shutil.copy(path, scratch)
    connection = sqlite3.connect(scratch / database.name)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    finally:
        connection.close()


async def certificates_of(client: HandclaspClient, user: str) -> set[str]:
    request = messages.ListCertificatesRequest(user=f"users/{user}")
    found = items(client.certificates.ListCertificates, request, lambda page: list(page.certificates))
    return {certificate.name async for certificate in found}


async def is_allowed(relying_party: HandclaspClient, certificate: Certificate) -> bool:
    decision = await relying_party.certificates.CheckPermission(
        messages.CheckPermissionRequest(
            peer_certificate=ssl.PEM_cert_to_DER_cert(first_pem(certificate.pem)),
            permission=PERMISSION_EXECUTE_INTEGRATIONS,
            resource="integrations/echo",
        )
    )
    return decision.allowed


def first_pem(chain: str) -> str:
    end = "-----END CERTIFICATE-----\n"
    return chain[: chain.index(end) + len(end)]


async def certificate_service_rounds(folder: Path, seeds: range) -> None:
    deployment = Deployment(folder)
    victim = deployment.certificates()
    try:
        deployment.issue_execution_identity()
        for seed in seeds:
            user = f"crash-{seed}"
            deployment.run("user", "create", user, "--profile", "regular-user").json()
            issuing = Issuing(issue_requests(user))
            async with administrator(deployment) as admin:
                await issuing.run(admin, victim, random.Random(seed))  # noqa: S311 - when to kill is no secret
            check_integrity(deployment.data_dir / "handclasp.db", folder / f"copy-{seed}")
            victim = await asyncio.to_thread(deployment.certificates)
            async with administrator(deployment) as admin, client_of(deployment, folder / "identity") as relying_party:
                for certificate in issuing.acknowledged.values():
                    get = messages.GetCertificateRequest(name=certificate.name)
                    assert await admin.certificates.GetCertificate(get) == certificate, f"seed {seed}"
                    assert await is_allowed(relying_party, certificate), f"seed {seed}"
                # Whether or not they were carried out, each has one certificate once it is tried again.
                again = await asyncio.gather(*(admin.certificates.IssueCertificate(lost) for lost in issuing.lost))
                names = {answer.certificate.name for answer in again}
                names |= {certificate.name for certificate in issuing.acknowledged.values()}
                assert len(names) == AT_ONCE, f"seed {seed}"
                assert await certificates_of(admin, user) == names, f"seed {seed}"
    finally:
        victim.kill()


async def execution_server_rounds(folder: Path, seeds: range) -> None:
    deployment = Deployment(folder)
    service = deployment.certificates()
    victim = None
    try:
        deployment.issue_execution_identity()
        deployment.run("user", "create", "runner", "--profile", "regular-user").json()
        deployment.run("cert", "issue", "--user", "runner", "--out", "runner").json()
        victim = deployment.execution_server()
        for seed in seeds:
            issuing = Issuing(issue_requests("runner"))
            for request in issuing.requests:
                request.request_id += f"-{seed}"
            async with administrator(deployment) as admin, client_of(deployment, folder / "runner") as runner:
                _, ran = await asyncio.gather(
                    issuing.run(admin, victim, random.Random(seed)),  # noqa: S311
                    asyncio.gather(*(echo(runner, number) for number in range(AT_ONCE))),
                )
            # The certificate service goes on as if nothing were.
            assert (len(issuing.acknowledged), issuing.lost) == (AT_ONCE, []), f"seed {seed}"
            assert all(answer in (number, None) for number, answer in enumerate(ran)), f"seed {seed}"
            victim = await asyncio.to_thread(deployment.execution_server)
            async with client_of(deployment, folder / "runner") as runner:
                assert await echo(runner, seed) == seed
    finally:
        if victim is not None:
            victim.kill()
        service.kill()


async def echo(client: HandclaspClient, number: int) -> int | None:
    """What comes back; None if the server was gone, which must be all that can go wrong."""
    request = ExecuteIntegrationRequest(name="integrations/echo", input_json=json.dumps({"number": number}))
    try:
        answer = await client.integrations.ExecuteIntegration(request)
    except Unavailable:
        return None
    except HandclaspError as error:
        pytest.fail(f"{type(error).__name__}: {error}")
    found: int = json.loads(answer.output_json)["number"]
    return found


async def test_nothing_acknowledged_is_lost_by_the_certificate_service(folder: Path) -> None:
    await certificate_service_rounds(folder, range(3))


async def test_a_killed_execution_server_comes_back(folder: Path) -> None:
    await execution_server_rounds(folder, range(1))


@pytest.mark.campaign
async def test_many_kills_of_the_certificate_service(folder: Path) -> None:
    await certificate_service_rounds(folder, range(100, 120))


@pytest.mark.campaign
async def test_many_kills_of_the_execution_server(folder: Path) -> None:
    await execution_server_rounds(folder, range(100, 110))
