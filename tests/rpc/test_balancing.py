"""What gRPC does between the servers of one name, over real TLS: in turn, by what they say of their health."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest

from handclasp.client.balancing import round_robin
from handclasp.transport.server import ServerLimits, add_health_and_reflection, server_options, set_serving
from tests.rpc.execution_harness import server_leaf
from tests.support.outside_ca import OutsideCA

SERVICE = "handclasp.certificates.v1.CertificateService"


@dataclass
class Server:
    """One of the two."""

    name: bytes
    server: grpc.aio.Server
    refuse: list[grpc.StatusCode] = field(default_factory=list)
    health: Any = None

    async def answer(self, _request: bytes, context: Any) -> bytes:
        if self.refuse:
            await context.abort(self.refuse.pop(), "told to")
        return self.name

    async def say(self, *, serving: bool) -> None:
        await set_serving(self.health, [SERVICE], serving=serving)
        await asyncio.sleep(0.3)


@dataclass
class Pair:
    servers: list[Server]
    channel: grpc.aio.Channel

    async def ask(self, method: str = "GetTrustBundle") -> bytes:
        call: Any = self.channel.unary_unary(f"/{SERVICE}/{method}")
        answer: bytes = await call(b"", timeout=10)
        return answer

    async def who_answers(self) -> set[bytes]:
        return {await self.ask() for _ in range(8)}


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    """Both are called `localhost`, which gRPC takes for 127.0.0.1 and ::1, whatever else the machine says."""
    ca = OutsideCA("Test CA")
    own, client = server_leaf(ca, "x"), ca.issue("alice")
    credentials = grpc.ssl_server_credentials([(own.key_pem.encode(), own.pem.encode())], ca.pem.encode(), True)
    servers: list[Server] = []
    port = 0
    async with AsyncExitStack() as stack:
        for host in ("127.0.0.1", "[::1]"):
            made = Server(host.encode(), grpc.aio.server(options=server_options(ServerLimits())))
            handler: Any = grpc.unary_unary_rpc_method_handler(made.answer)
            methods = {"GetTrustBundle": handler, "RevokeCertificate": handler}
            made.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
            made.health = add_health_and_reflection(made.server, [SERVICE])
            try:
                port = made.server.add_secure_port(f"{host}:{port}", credentials)
            except RuntimeError:
                pytest.skip("no IPv6 here, or the port is taken there")
            await made.server.start()
            stack.push_async_callback(made.server.stop, None)
            await made.say(serving=True)
            servers.append(made)
        ours = grpc.ssl_channel_credentials(ca.pem.encode(), client.key_pem.encode(), client.pem.encode())
        options = [("grpc.use_local_subchannel_pool", 1), *round_robin()]
        async with grpc.aio.secure_channel(f"localhost:{port}", ours, options=options) as channel:
            pair = Pair(servers, channel)
            await pair.ask()
            await asyncio.sleep(0.5)
            if len(await pair.who_answers()) < 2:
                pytest.skip("localhost has one address here")
            yield pair


async def test_one_that_says_it_does_not_serve_is_left_alone(pair: Pair) -> None:
    first, second = pair.servers
    await second.say(serving=False)
    assert await pair.who_answers() == {first.name}
    await second.say(serving=True)
    assert await pair.who_answers() == {first.name, second.name}


async def test_one_that_stops_is_noticed_by_no_call(pair: Pair) -> None:
    first, second = pair.servers
    stop = asyncio.Event()
    answers: list[bytes] = []

    async def ask() -> None:
        while not stop.is_set():
            answers.append(await pair.ask())

    asking = asyncio.create_task(ask())
    await asyncio.sleep(0.1)
    await second.health.enter_graceful_shutdown()
    # Whoever watches its health does not hold it up.
    async with asyncio.timeout(3):
        await second.server.stop(10)
    await asyncio.sleep(0.2)
    stop.set()
    await asking
    assert set(answers[-5:]) == {first.name}


async def test_a_read_whose_answer_is_lost_goes_to_the_next_one_and_nothing_else(pair: Pair) -> None:
    for server in pair.servers:
        server.refuse = [grpc.StatusCode.UNAVAILABLE]
    assert await pair.ask() in {b"127.0.0.1", b"[::1]"}
    for server in pair.servers:
        server.refuse = [grpc.StatusCode.UNAVAILABLE]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await pair.ask("RevokeCertificate")
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
