"""Calls of integrations by a client with a connection of its own."""

from __future__ import annotations

from pathlib import Path

import grpc

from handclasp.errors import HandclaspError
from handclasp.errors.status import from_rpc_error
from handclasp.integrations.v1.integration_service_pb2 import ExecuteIntegrationRequest
from handclasp.integrations.v1.integration_service_pb2_grpc import IntegrationServiceStub
from tests.benchmarks.load import Server, open_channel

_SLEEPER = '''
"""An integration that is in progress until somebody ends it."""

import asyncio

from handclasp.authoring import JsonObject, integration


@integration(name="sleep", version="1.0.0", timeout=120)
async def sleep(value: JsonObject) -> JsonObject:
    """Sleeps for longer than anybody waits."""
    await asyncio.sleep(100)
    return value
'''
_CALL_TIMEOUT = 60.0  # seconds


def write_integrations(folder: Path) -> None:
    """Makes the folder from which the execution server is to take `sleep`."""
    folder.mkdir()
    (folder / "sleeper.py").write_text(_SLEEPER)


class Executing:
    """A client of the execution server. Connects at the first call."""

    def __init__(self, server: Server) -> None:
        self._channel = open_channel(server)
        self._stub = IntegrationServiceStub(self._channel)

    async def run(self, integration: str) -> HandclaspError | None:
        """Runs an integration; the error that it ended with, if it did."""
        request = ExecuteIntegrationRequest(name=f"integrations/{integration}", input_json='{"hello":"world"}')
        try:
            await self._stub.ExecuteIntegration(request, timeout=_CALL_TIMEOUT)
        except grpc.aio.AioRpcError as error:
            return from_rpc_error(error)
        return None

    async def close(self) -> None:
        await self._channel.close()
