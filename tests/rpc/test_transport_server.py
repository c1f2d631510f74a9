"""Limits, swapped credentials, and stopping, over real TLS."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from handclasp.serving.interceptor import CallInterceptor
from handclasp.serving.tls import ReloadingCredentials
from handclasp.transport.lifecycle import StopRequests
from handclasp.transport.server import ServerLimits, make_server
from tests.rpc.execution_harness import server_leaf
from tests.rpc.transport_lab import SERVICE, Kinds, admit, channel_to, identity_of, running_lab
from tests.support.outside_ca import Issued, OutsideCA


async def answers(port: int, server_ca: OutsideCA, client: Issued | None = None) -> bool:
    """Whether a new connection gets an answer."""
    async with channel_to(port, server_ca, client) as channel:
        call: Any = channel.unary_unary(f"/{SERVICE}/Unary")
        try:
            await call(b"", timeout=5)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            return False
        return True


async def read_to_the_end(stream: Any) -> None:
    while await stream.read() is not grpc.aio.EOF:
        pass


async def start(credentials: grpc.ServerCredentials) -> tuple[grpc.aio.Server, int]:
    server = make_server(CallInterceptor(admit), ServerLimits())
    server.add_generic_rpc_handlers((Kinds().handlers(),))
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    return server, port


async def test_roots_and_identity_are_swapped_for_new_connections() -> None:
    ca, other = OutsideCA("one"), OutsideCA("other")
    alice, bob = ca.issue("alice"), other.issue("bob")
    identity = identity_of(server_leaf(ca, "server"))
    credentials = ReloadingCredentials(identity, ca.pem.encode())
    server, port = await start(credentials.credentials)
    assert (await answers(port, ca, alice), await answers(port, ca, bob)) == (True, False)
    credentials.replace(identity, (ca.pem + other.pem).encode())
    assert (await answers(port, ca, alice), await answers(port, ca, bob)) == (True, True)
    credentials.replace(identity, other.pem.encode())
    credentials.replace(identity_of(server_leaf(other, "server")), other.pem.encode())
    assert (await answers(port, ca, bob), await answers(port, other, bob)) == (False, True)
    assert await answers(port, other, alice) is False
    await server.stop(None)


async def test_a_replacement_that_cannot_work_changes_nothing() -> None:
    ca = OutsideCA()
    alice, identity = ca.issue("alice"), identity_of(server_leaf(ca, "server"))
    credentials = ReloadingCredentials(identity, ca.pem.encode())
    server, port = await start(credentials.credentials)
    for bad in (alice.pem.encode(), b"", b"garbage"):
        with pytest.raises(ValueError, match="trust bundle"):
            credentials.replace(identity, bad)
    assert await answers(port, ca, alice)
    await server.stop(None)


async def test_one_way_credentials_are_swapped_too() -> None:
    ca, other = OutsideCA("one"), OutsideCA("other")
    credentials = ReloadingCredentials(identity_of(server_leaf(ca, "server")), None)
    server, port = await start(credentials.credentials)
    assert (await answers(port, ca), await answers(port, other)) == (True, False)
    credentials.replace(identity_of(server_leaf(other, "server")), None)
    assert (await answers(port, ca), await answers(port, other)) == (False, True)
    await server.stop(None)


async def test_a_port_is_not_shared() -> None:
    ca = OutsideCA()
    credentials = ReloadingCredentials(identity_of(server_leaf(ca, "server")), None)
    server, port = await start(credentials.credentials)
    second = make_server(CallInterceptor(admit), ServerLimits())
    with pytest.raises(RuntimeError):
        second.add_secure_port(f"127.0.0.1:{port}", credentials.credentials)
    await server.stop(None)


async def test_a_handshake_that_is_never_begun_is_cut() -> None:
    async with running_lab(ServerLimits(handshake_timeout=0.3)) as lab:
        reader, writer = await asyncio.open_connection("127.0.0.1", lab.port)
        assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()


async def test_requests_beyond_the_limit_are_refused() -> None:
    async with running_lab(ServerLimits(max_request_length=1000)) as lab:
        await lab.unary("Unary", b"x" * 900)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await lab.unary("Unary", b"x" * 1100)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_calls_beyond_the_limit_are_refused() -> None:
    async with running_lab(ServerLimits(maximum_concurrent_rpcs=2)) as lab:
        results = await asyncio.gather(*(lab.unary("Patient") for _ in range(8)), return_exceptions=True)
    codes = [item.code() for item in results if isinstance(item, grpc.aio.AioRpcError)]
    assert b"done" in results
    assert codes
    assert set(codes) == {grpc.StatusCode.RESOURCE_EXHAUSTED}


async def test_connections_end_at_their_age() -> None:
    limits = ServerLimits(max_connection_age=0.3, max_connection_age_grace=0.3)
    async with running_lab(limits) as lab:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await read_to_the_end(lab.stream("Endless"))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_stop_lets_running_calls_end() -> None:
    async with running_lab() as lab:
        stop = StopRequests()
        running = asyncio.create_task(lab.run_until_stopped(stop, grace=10))
        await lab.unary("Unary")
        watch: Any = health_pb2_grpc.HealthStub(lab.channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        call = lab.unary("Patient")
        await asyncio.sleep(0.1)
        stop.request()
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watch.cancel()
        assert await call == b"done"
        await running
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", lab.port)


async def test_a_second_request_stops_at_once() -> None:
    async with running_lab() as lab:
        stop = StopRequests()
        running = asyncio.create_task(lab.run_until_stopped(stop, grace=3600))
        stream = lab.stream("Endless")
        await stream.read()
        stop.request()
        await asyncio.sleep(0.1)
        assert not running.done()
        stop.request()
        await asyncio.wait_for(running, 10)
        with pytest.raises(grpc.aio.AioRpcError):
            await read_to_the_end(stream)


async def test_signals_are_requests_only_while_inside() -> None:
    before = signal.getsignal(signal.SIGTERM)
    stop = StopRequests()
    with stop.on_signals():
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(stop.wait(), 10)
        assert stop.requested
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.wait_for(stop.wait_at_once(), 10)
    assert signal.getsignal(signal.SIGTERM) == before
