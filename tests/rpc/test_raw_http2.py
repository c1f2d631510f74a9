"""The raw HTTP/2 client that attacks are made of: what it sends arrives as a call, and it sees how that ends."""

from __future__ import annotations

import asyncio
import gzip

import grpc
import pytest

from handclasp.transport.server import ServerLimits
from tests.rpc.transport_lab import SERVICE, Lab, running_lab
from tests.support.raw_http2 import Connection, Target, connected, grpc_message


def target(lab: Lab) -> Target:
    leaf = lab.ca.issue("mallory")
    return Target(lab.port, lab.ca.pem.encode(), leaf.pem.encode(), leaf.key_pem.encode())


async def test_a_call_in_pieces_is_a_call() -> None:
    async with running_lab() as lab, connected(target(lab)) as connection:
        call = connection.open_call(f"/{SERVICE}/Echoed")
        message = grpc_message(bytes(200_000))  # more than the server's first window
        await call.send(message[:-1])
        await asyncio.sleep(0.1)
        assert not call.ended
        await call.send(message[-1:], end=True)
        outcome = await call.outcome()
    assert outcome.status is grpc.StatusCode.OK
    assert outcome.data == message


async def test_compressed_messages_are_refused() -> None:
    async with running_lab() as lab, connected(target(lab)) as connection:
        call = connection.open_call(f"/{SERVICE}/Collected", [("grpc-encoding", "gzip")])
        await call.send(grpc_message(gzip.compress(bytes(5000)), compressed=True), end=True)
        outcome = await call.outcome()
    assert outcome.status is grpc.StatusCode.UNIMPLEMENTED
    assert "gzip" in outcome.message


async def test_a_refusal_has_its_reason() -> None:
    async with running_lab() as lab, connected(target(lab)) as connection:
        call = connection.open_call(f"/{SERVICE}/Forbidden")
        await call.send(grpc_message(b""), end=True)
        outcome = await call.outcome()
    assert (outcome.status, outcome.reason) == (grpc.StatusCode.PERMISSION_DENIED, "ACCESS_DENIED")


async def test_more_streams_than_the_server_takes_are_reset() -> None:
    async with running_lab(ServerLimits(max_concurrent_streams=3)) as lab, connected(target(lab)) as connection:
        calls = [connection.open_call(f"/{SERVICE}/Echoed") for _ in range(9)]
        resets = [(await call.outcome()).reset for call in calls[6:]]
    assert set(resets) == {11}  # ENHANCE_YOUR_CALM


async def test_the_loss_of_the_connection_ends_its_calls() -> None:
    async with running_lab() as lab, connected(target(lab)) as connection:
        call = connection.open_call(f"/{SERVICE}/Echoed")
        await connection.drained()
        await lab.server.stop(None)
        await call.outcome()
        with pytest.raises(ConnectionError):
            await keep_writing(connection)


async def keep_writing(connection: Connection) -> None:
    while True:
        await connection.drained()
