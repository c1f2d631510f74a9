"""An execution server that is restarted again and again, under callers who keep their connections.

Whatever becomes of a call, its caller learns what it is: an answer, a refusal with a reason, or a connection that has
ended. gRPC's own CANCELLED says nothing, and no client may repeat such a call.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from handclasp.client.client import HandclaspClient
from handclasp.client.credentials import TlsMaterial
from handclasp.errors import HandclaspError, Reason
from handclasp.errors.status import DETAILS_KEY, from_rpc_error, status_code
from handclasp.integrations.v1 import integration_service_pb2 as pb
from handclasp.integrations.v1 import integration_service_pb2_grpc as pb_grpc
from tests.e2e.processes import Deployment

INTEGRATIONS = """
import asyncio
from pydantic import BaseModel
from handclasp.authoring import JsonObject, integration

class How(BaseModel):
    seconds: float

@integration(name="tests.sleep", version="1.0.0", timeout=60)
async def sleep(value: How) -> JsonObject:
    await asyncio.sleep(value.seconds)
    return JsonObject()
"""
RESTARTS = 6
GRACE = 1.0
CHANNELS = 4
LOOPS = 4
"""Loops that call without a pause, on each channel."""
_RECONNECTING = (("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 300))

Outcome = tuple[str, str]
"""The status, and the reason: of gRPC itself, its text up to the first colon."""

ALLOWED = {
    ("OK", ""),
    ("UNAVAILABLE", Reason.SERVER_STOPPING),
    ("UNAVAILABLE", Reason.CALL_INTERRUPTED),
    # Told by the client's own side, of a connection that has ended, or does not come about.
    ("UNAVAILABLE", Reason.CONNECTION_LOST),
    ("UNAVAILABLE", Reason.SERVER_UNREACHABLE),
    ("UNAVAILABLE", Reason.HANDSHAKE_REFUSED),
}
_ENDED_CONNECTIONS = ("Socket closed", "failed to connect", "recvmsg", "sendmsg", "GOAWAY", "Connection", "Broken pipe")


@pytest.mark.campaign
@pytest.mark.timeout(300)
async def test_no_call_on_a_kept_connection_ends_without_a_reason(folder: Path) -> None:
    deployment = Deployment(folder)
    (folder / "integrations").mkdir()
    (folder / "integrations" / "sleeping.py").write_text(INTEGRATIONS, encoding="utf-8")
    variables = {
        "HANDCLASP_EXECUTIONS_INTEGRATIONS_FOLDER": str(folder / "integrations"),
        "HANDCLASP_EXECUTIONS_GRACE": str(GRACE),
    }
    async with AsyncExitStack() as stack:
        stack.enter_context(await asyncio.to_thread(deployment.certificates))
        await asyncio.to_thread(deployment.issue_execution_identity)
        tls = await asyncio.to_thread(_alice, deployment)
        server = await asyncio.to_thread(deployment.execution_server, variables=variables)
        calling = _Calling()
        for _ in range(CHANNELS):
            channel = await stack.enter_async_context(_channel(deployment.executions, tls))
            stub = pb_grpc.IntegrationServiceStub(channel)
            for _ in range(LOOPS):
                calling.start("echo", stub, _echo())
            calling.start("slow", stub, _sleep(0.3))
            calling.start("too long", stub, _sleep(50))
        client = await stack.enter_async_context(HandclaspClient(tls=tls, executions=deployment.executions))
        calling.start("client", client.integrations, _echo())
        for _ in range(RESTARTS):
            await asyncio.sleep(0.5)
            assert await asyncio.to_thread(server.stop) == 0
            server = await asyncio.to_thread(deployment.execution_server, variables=variables)
        stack.enter_context(server)
        await asyncio.sleep(0.5)
        await calling.stop()
    assert not {name: found for name, seen in calling.outcomes.items() if (found := set(seen) - ALLOWED)}
    interrupted = ("UNAVAILABLE", str(Reason.CALL_INTERRUPTED))
    assert set(calling.outcomes["too long"]) <= ALLOWED - {("OK", "")}
    # Nearly one for each restart and channel: one may still be connecting.
    assert calling.outcomes["too long"][interrupted] > RESTARTS * CHANNELS / 2
    # Those have the time that they need, and are refused, or done.
    assert interrupted not in calling.outcomes["slow"]
    assert calling.outcomes["echo"][("OK", "")] > RESTARTS * CHANNELS
    assert calling.outcomes["echo"][("UNAVAILABLE", str(Reason.SERVER_STOPPING))] > RESTARTS


class _Calling:
    """Calls one after the other, and counts how they end."""

    def __init__(self) -> None:
        self.outcomes: dict[str, Counter[Outcome]] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, name: str, stub: Any, request: pb.ExecuteIntegrationRequest) -> None:
        seen = self.outcomes.setdefault(name, Counter())
        self._tasks.append(asyncio.create_task(self._run(seen, lambda: stub.ExecuteIntegration(request))))

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        for task in self._tasks:
            if not task.cancelled():
                task.result()

    async def _run(self, seen: Counter[Outcome], call: Callable[[], Awaitable[object]]) -> None:
        while True:
            outcome = await _outcome(call)
            seen[outcome] += 1
            if outcome[0] != "OK":
                await asyncio.sleep(0.01)  # there may be no server for seconds


async def _outcome(call: Callable[[], Awaitable[object]]) -> Outcome:
    try:
        await call()
    except HandclaspError as error:
        return status_code(error).name, error.reason
    except grpc.aio.AioRpcError as error:
        typed = from_rpc_error(error)
        if DETAILS_KEY in dict(error.trailing_metadata() or ()):
            return error.code().name, typed.reason
        ended = any(text in (error.details() or "") for text in _ENDED_CONNECTIONS)
        return error.code().name, Reason.CONNECTION_LOST if ended else f"bare: {error.details()}"
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        return "CANCELLED", "bare: raised"
    return "OK", ""


def _channel(address: str, tls: TlsMaterial) -> grpc.aio.Channel:
    credentials = grpc.ssl_channel_credentials(tls.authorities, tls.key, tls.certificate)
    options = [("grpc.use_local_subchannel_pool", 1), *_RECONNECTING]
    return grpc.aio.secure_channel(address, credentials, options=options)


def _echo() -> pb.ExecuteIntegrationRequest:
    return pb.ExecuteIntegrationRequest(name="integrations/echo", input_json="{}")


def _sleep(seconds: float) -> pb.ExecuteIntegrationRequest:
    return pb.ExecuteIntegrationRequest(name="integrations/tests.sleep", input_json=json.dumps({"seconds": seconds}))


def _alice(deployment: Deployment) -> TlsMaterial:
    deployment.run("user", "create", "alice", "--profile", "regular-user").json()
    out = deployment.folder / "alice"
    deployment.run("cert", "issue", "--user", "alice", "--out", out).json()
    ca_pem = (deployment.data_dir / "ca.pem").read_bytes()
    return TlsMaterial(ca_pem, (out / "cert.pem").read_bytes(), (out / "key.pem").read_bytes())
