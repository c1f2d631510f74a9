"""Servers that are stopped: every call learns what became of it, and nobody who watches is waited for."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from handclasp.certificates.v1 import certificate_service_pb2
from handclasp.certificates.v1.certificate_service_pb2_grpc import CertificateServiceStub
from handclasp.errors import HandclaspError, Reason
from handclasp.errors.status import DETAILS_KEY, from_rpc_error
from handclasp.transport.lifecycle import StopRequests
from tests.rpc.transport_lab import SERVICE, channel_to, running_lab
from tests.support.installation import running_installation
from tests.support.raw_watcher import watching_from_now

GRACE = 300.0
BARE = "bare"
STOPS = 4
CHANNELS = 6


async def refused(call: Any) -> HandclaspError:
    """What the server said to a call."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert DETAILS_KEY in dict(caught.value.trailing_metadata() or ()), caught.value
    return from_rpc_error(caught.value)


async def test_watches_are_ended_at_once(database_url: str, tmp_path: Path) -> None:
    async with AsyncExitStack() as service:
        installation = await service.enter_async_context(running_installation(tmp_path, database_url, grace=GRACE))
        async with watching_from_now(installation) as watcher:
            ending = asyncio.create_task(watcher.end())
            async with asyncio.timeout(GRACE / 10):
                await service.aclose()
            assert await ending is grpc.StatusCode.UNAVAILABLE


async def test_calls_on_kept_connections_end_with_a_reason() -> None:
    seen: Counter[tuple[str, str]] = Counter()
    for _ in range(STOPS):
        async with running_lab() as lab, AsyncExitStack() as channels:
            stop = StopRequests()
            running = asyncio.create_task(lab.run_until_stopped(stop, grace=GRACE))
            loops = []
            for _ in range(CHANNELS):
                channel = await channels.enter_async_context(channel_to(lab.port, lab.ca, lab.ca.issue("alice")))
                for method in ("Unary", "Unary", "Patient"):
                    call: Any = channel.unary_unary(f"/{SERVICE}/{method}")
                    loops.append(asyncio.create_task(_until_stopped(partial(call, b""), seen, running)))
            await asyncio.sleep(0.1)
            stop.request()
            await running
            await asyncio.gather(*loops)
    _assert_each_says_what_it_is(seen)


async def test_calls_of_a_certificate_service_end_with_a_reason(database_url: str, tmp_path: Path) -> None:
    seen: Counter[tuple[str, str]] = Counter()
    request = certificate_service_pb2.GetTrustBundleRequest()
    async with AsyncExitStack() as service, AsyncExitStack() as channels:
        installation = await service.enter_async_context(running_installation(tmp_path, database_url, grace=GRACE))
        credentials = grpc.ssl_channel_credentials(installation.ca_pem)
        loops: list[asyncio.Task[None]] = []
        stopped = asyncio.Event()
        stopping = asyncio.create_task(stopped.wait())
        for _ in range(CHANNELS):
            options = [("grpc.use_local_subchannel_pool", 1)]
            channel = grpc.aio.secure_channel(installation.tls_address, credentials, options=options)
            stub = CertificateServiceStub(await channels.enter_async_context(channel))
            loops += [
                asyncio.create_task(_until_stopped(partial(stub.GetTrustBundle, request), seen, stopping))
                for _ in range(2)
            ]
        await asyncio.sleep(0.1)
        await service.aclose()
        stopped.set()
        await asyncio.gather(*loops)
    _assert_each_says_what_it_is(seen)


async def test_a_call_that_outlasts_the_grace_is_told_that_it_was_interrupted() -> None:
    async with running_lab() as lab:
        stop = StopRequests()
        stop.request()
        waiting = asyncio.create_task(refused(lab.unary("Patient", b"for ever")))
        stream = lab.stream("Endless")
        await stream.read()
        await lab.run_until_stopped(stop, grace=0.1)
        error = await waiting
        assert error.reason == Reason.CALL_INTERRUPTED
        assert "may have been carried out" in error.message
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _read_to_the_end(stream)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert lab.interceptor.budgets.running == 0


async def test_what_never_began_or_would_never_end_keeps_no_server_from_stopping() -> None:
    async with running_lab() as lab:
        stop = StopRequests()
        without_request: Any = lab.channel.stream_unary(f"/{SERVICE}/Unary")
        call = without_request()
        watch: Any = health_pb2_grpc.HealthStub(lab.channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        ending = asyncio.create_task(refused(call))
        stop.request()
        async with asyncio.timeout(GRACE / 10):
            await lab.run_until_stopped(stop, grace=GRACE)
        assert (await ending).reason == Reason.SERVER_STOPPING
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert (await refused(watch.read())).reason == Reason.SERVER_STOPPING


async def _read_to_the_end(stream: Any) -> None:
    while await stream.read() is not grpc.aio.EOF:
        pass


async def _until_stopped(call: Callable[[], Any], seen: Counter[tuple[str, str]], stopped: asyncio.Task[Any]) -> None:
    """Calls without a pause until the server has stopped, and counts how the calls end."""
    while not stopped.done():
        try:
            await call()
        except grpc.aio.AioRpcError as error:
            typed = DETAILS_KEY in dict(error.trailing_metadata() or ())
            seen[error.code().name, from_rpc_error(error).reason if typed else BARE] += 1
            await asyncio.sleep(0)
        else:
            seen["OK", ""] += 1


def _assert_each_says_what_it_is(seen: Counter[tuple[str, str]]) -> None:
    """Without a reason there is only what a client finds by itself, of a connection that has ended."""
    assert set(seen) <= {("OK", ""), ("UNAVAILABLE", str(Reason.SERVER_STOPPING)), ("UNAVAILABLE", BARE)}, seen
    assert seen["OK", ""]
    assert seen["UNAVAILABLE", str(Reason.SERVER_STOPPING)]
