"""Services of several processes: both get calls, one that dies comes back, and all stop with their parent."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import psutil
import pytest

from handclasp.certificates.v1 import certificate_service_pb2 as messages
from handclasp.client.client import HandclaspClient
from handclasp.errors import HandclaspError
from handclasp.integrations.v1.integration_service_pb2 import ExecuteIntegrationRequest
from tests.e2e.clients import administrator, client_of
from tests.e2e.processes import Deployment, Process, environment, free_port, run_command, wait_until
from tests.support.postgres import PostgresServer

pytestmark = pytest.mark.timeout(300)

Call: TypeAlias = Callable[[HandclaspClient], Awaitable[None]]


@dataclass
class Running:
    """A service of two workers."""

    process: Process
    ready: dict[str, Any]
    log: Path

    @property
    def workers(self) -> list[psutil.Process]:
        """Those that run now. The service's parent has another child, which relays its standard error."""
        children = psutil.Process(self.process.popen.pid).children()
        return [child for child in children if any(word.endswith(".worker") for word in child.cmdline())]

    def missing(self) -> str | None:
        """What /readyz says; None if it is ready."""
        url = f"http://127.0.0.1:{self.ready['health_port']}/readyz"
        try:
            with urllib.request.urlopen(url, timeout=10):
                return None
        except urllib.error.HTTPError as error:
            return str(json.loads(error.read())["missing"])

    def wait_until_ready(self) -> None:
        wait_until(lambda: self.missing() is None, "all workers are ready")

    def kill_one(self) -> None:
        """`kill -9` of a worker, and waits until another one is there in its place."""
        before = {process.pid for process in self.workers}
        victim = min(before)
        psutil.Process(victim).kill()
        wait_until(lambda: self.missing() is not None, "one is missing")
        self.wait_until_ready()
        assert len({process.pid for process in self.workers} - before) == 1
        assert "killed by SIGKILL" in self.log.read_text()


@dataclass
class Scene:
    deployment: Deployment
    database_url: str

    def certificates(self) -> Running:
        """Starts the certificate service."""
        deployment = self.deployment
        ready_file = deployment.folder / "certificates-ready.json"
        ready_file.unlink(missing_ok=True)
        log = deployment.folder / "certificates.log"
        process = Process(
            "certificates",
            *("serve", "certificates", "--workers", "2", "--data-dir", deployment.data_dir),
            *("--tls-port", str(deployment.ports["tls"]), "--mtls-port", str(deployment.ports["mtls"])),
            *("--health-port", "0", "--ready-file", ready_file),
            folder=deployment.folder,
            variables=environment(
                HANDCLASP_CERTIFICATES_DATABASE_URL=self.database_url, HANDCLASP_CERTIFICATES_LOG__FILE=log
            ),
        )
        return Running(process, process.wait_for(ready_file), log)

    def executions(self) -> Running:
        """Starts the execution server."""
        deployment, name = self.deployment, "executions"
        # Each call is to ask.
        variables = {"HANDCLASP_EXECUTIONS_WORKERS": "2", "HANDCLASP_EXECUTIONS_MAX_DECISIONS": "0"}
        process = deployment.execution_server(variables=variables)
        ready = json.loads((deployment.folder / f"{name}-ready.json").read_text())
        return Running(process, ready, deployment.folder / f"{name}.log")


@pytest.fixture
def scene(folder: Path, postgres: PostgresServer) -> Iterator[Scene]:
    with postgres.database() as url:
        yield Scene(Deployment(folder), url)


def called(log: Path, number: int, event: str) -> bool:
    return event in log.with_name(f"{log.stem}-{number}{log.suffix}").read_text()


async def echo(client: HandclaspClient) -> None:
    await client.integrations.ExecuteIntegration(
        ExecuteIntegrationRequest(name="integrations/echo", input_json="{}"), timeout=30
    )


async def list_one(client: HandclaspClient) -> None:
    await client.certificates.ListCertificates(messages.ListCertificatesRequest(page_size=1))


async def run_echo(deployment: Deployment) -> None:
    """Over a connection of its own, so that either worker may get it."""
    async with client_of(deployment, deployment.folder / "alice") as client:
        await echo(client)


async def spread(running: Running, port: int, connect: Callable[[], HandclaspClient], call: Call) -> list[int]:
    """How many of sixteen connections each worker has."""
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connect()) for _ in range(16)]
        await asyncio.gather(*(call(client) for client in clients))
        return [
            sum(one.laddr.port == port and one.status == "ESTABLISHED" for one in worker.net_connections("tcp"))
            for worker in running.workers
        ]


async def list_certificates(deployment: Deployment) -> None:
    async with administrator(deployment) as admin:
        await list_one(admin)


async def failures_while(deployment: Deployment, happening: Callable[[], None]) -> list[HandclaspError]:
    """What callers of the execution server see meanwhile."""
    failures: list[HandclaspError] = []
    over = asyncio.Event()

    async def call() -> None:
        async with client_of(deployment, deployment.folder / "alice") as client:
            while not over.is_set():
                try:
                    await echo(client)
                except HandclaspError as error:
                    failures.append(error)
                await asyncio.sleep(0.01)

    callers = [asyncio.create_task(call()) for _ in range(8)]
    await asyncio.sleep(0.5)
    await asyncio.to_thread(happening)
    over.set()
    await asyncio.gather(*callers)
    return failures


def say_nothing_of_tls(port: int) -> None:
    """A handshake that is refused."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection, contextlib.suppress(OSError):
        connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
        connection.recv(100)


def is_listed(deployment: Deployment, listener: str) -> bool:
    refusals = deployment.run("explain", "--since", "10m", "--limit", "100").json()["refusals"]
    return any(one["reason"] == "NOT_TLS" and one["listener"] in {listener, "unknown"} for one in refusals)


def test_both_services_with_two_workers_each(scene: Scene) -> None:
    deployment = scene.deployment
    certificates = scene.certificates()
    with certificates.process:
        assert len(certificates.workers) == 2
        assert sorted(certificates.ready["workers"]) == sorted(process.pid for process in certificates.workers)
        deployment.issue_execution_identity()
        deployment.run("user", "create", "alice", "--profile", "regular-user").json()
        issued = deployment.run("cert", "issue", "--user", "alice", "--out", "alice").json()
        executions = scene.executions()
        with executions.process:
            executions.wait_until_ready()
            alice = partial(client_of, deployment, deployment.folder / "alice")
            both = asyncio.run(spread(executions, deployment.ports["executions"], alice, echo))
            assert min(both) > 0, "each gets a part of the connections, and so of the calls"
            both = asyncio.run(
                spread(certificates, deployment.ports["mtls"], partial(administrator, deployment), list_one)
            )
            assert min(both) > 0
            # Each worker watches for itself, over a connection of its own.
            for number in (1, 2):
                assert called(executions.log, number, "watch_welcomed")
            failed = asyncio.run(failures_while(deployment, certificates.kill_one))
            assert not failed, "a question whose answer was lost is asked again, of the other one"
            executions.kill_one()
            for _ in range(6):
                asyncio.run(run_echo(deployment))
                asyncio.run(list_certificates(deployment))
            # Refused at whichever worker, and listed by whichever.
            for port, listener in (
                (deployment.ports["mtls"], "certificates_mtls"),
                (deployment.ports["executions"], "executions"),
            ):
                say_nothing_of_tls(port)
                wait_until(partial(is_listed, deployment, listener), f"a refused handshake at {listener}")
            # Revoked at one of them, and in force at all.
            deployment.run("cert", "revoke", issued["id"]).json()
            for _ in range(8):
                with pytest.raises(HandclaspError, match="CERTIFICATE_NOT_ACCEPTED"):
                    asyncio.run(run_echo(deployment))
            workers = executions.workers
            assert executions.process.stop() == 0
            assert not any(process.is_running() for process in workers)
        workers = certificates.workers
        assert certificates.process.stop(signal.SIGINT) == 0
        assert not any(process.is_running() for process in workers)
        assert "Traceback" not in certificates.process.errors + executions.process.errors


def test_workers_do_not_outlive_their_parent_and_hold_its_folder_until_they_end(scene: Scene) -> None:
    first = scene.certificates()
    workers = first.workers
    first.process.kill()
    wait_until(lambda: not any(process.is_running() for process in workers), "they stop by themselves")
    second = scene.certificates()
    with second.process:
        second.wait_until_ready()
        # Neither the folder nor the ports are to be had for others.
        refused = run_command(
            *("serve", "certificates", "--data-dir", scene.deployment.data_dir, "--health-port", "0"),
            folder=scene.deployment.folder,
            variables=environment(HANDCLASP_CERTIFICATES_DATABASE_URL=scene.database_url),
        )
        assert refused.status == 1
        assert "in use by another process" in refused.errors


def test_sqlite_is_for_one(folder: Path) -> None:
    refused = run_command("serve", "certificates", "--workers", "2", "--tls-port", str(free_port()), folder=folder)
    assert refused.status == 2
    assert "several workers need PostgreSQL" in refused.errors
    assert len(refused.errors.strip().splitlines()) == 1
