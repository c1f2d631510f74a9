"""All certificate services and all execution servers, restarted one after the other, while a client calls."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

from handclasp.client.client import HandclaspClient
from handclasp.client.credentials import TlsMaterial
from handclasp.errors import HandclaspError
from handclasp.integrations.v1 import integration_service_pb2 as pb
from tests.e2e.fleet import fleet
from tests.e2e.processes import Deployment, Process
from tests.support.postgres import PostgresServer

SERVERS = ("executions", "executions-1", "executions-2")


async def test_a_client_has_no_error_while_everything_is_restarted(folder: Path, postgres: PostgresServer) -> None:
    with postgres.database() as url:
        async with fleet(folder, database_url=url, replicas=3, servers=0) as running, AsyncExitStack() as stack:
            first = running.first
            services = ",".join(f"localhost:{replica.deployment.ports['mtls']}" for replica in running.replicas)

            def start(name: str) -> Process:
                return first.execution_server(name, services=services)

            servers: dict[str, Process] = {}

            def kill() -> None:
                for server in servers.values():
                    server.kill()

            stack.callback(kill)
            for name in SERVERS:
                await asyncio.to_thread(first.issue_execution_identity, name)
                servers[name] = await asyncio.to_thread(start, name)
            tls = await asyncio.to_thread(_alice, first)
            addresses = ",".join(f"localhost:{first.ports[name]}" for name in SERVERS)
            async with HandclaspClient(tls=tls, executions=addresses) as client:
                calling = _Calling(client)
                tasks = [asyncio.create_task(calling.until_told()) for _ in range(8)]
                for replica in running.replicas:
                    await asyncio.to_thread(replica.process.stop)
                    await replica.start()
                for name in SERVERS:
                    await asyncio.to_thread(servers[name].stop)
                    servers[name] = await asyncio.to_thread(start, name)
                calling.told.set()
                await asyncio.gather(*tasks)
    assert not calling.errors, [str(error) for error in calling.errors]
    assert calling.answered > 50


class _Calling:
    def __init__(self, client: HandclaspClient) -> None:
        self._client = client
        self.told = asyncio.Event()
        self.answered = 0
        self.errors: list[HandclaspError] = []

    async def until_told(self) -> None:
        request = pb.ExecuteIntegrationRequest(name="integrations/echo")
        while not self.told.is_set():
            try:
                await self._client.integrations.ExecuteIntegration(request)
                self.answered += 1
            except HandclaspError as error:
                self.errors.append(error)
            await asyncio.sleep(0.01)


def _alice(deployment: Deployment) -> TlsMaterial:
    deployment.run("user", "create", "alice", "--profile", "regular-user").json()
    out = deployment.folder / "alice"
    deployment.run("cert", "issue", "--user", "alice", "--out", out).json()
    ca_pem = (deployment.data_dir / "ca.pem").read_bytes()
    return TlsMaterial(ca_pem, (out / "cert.pem").read_bytes(), (out / "key.pem").read_bytes())
