"""What callers can take up, over real TLS: calls without a request, too many calls, messages that are too long."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from handclasp.errors import DeadlineExceeded, HandclaspError, InvalidArgument, PermissionDenied, ResourceExhausted
from handclasp.errors.status import from_rpc_error
from handclasp.transport.server import ServerLimits
from tests.rpc.execution_harness import until
from tests.rpc.transport_lab import SERVICE, Lab, channel_to, running_lab


async def refusal(call: Any) -> HandclaspError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asyncio.wait_for(call, 20)
    return from_rpc_error(caught.value)


def headers(channel: grpc.aio.Channel, method: str = "Unary") -> Any:
    """Begins a call and sends no request: on the wire a unary call whose message is late."""
    begin: Any = channel.stream_unary(f"/{SERVICE}/{method}")
    return begin(timeout=60)


async def held(lab: Lab, channel: grpc.aio.Channel, count: int) -> list[Any]:
    """That many calls without a request, once they have arrived."""
    before = lab.interceptor.budgets.arriving
    calls = [headers(channel) for _ in range(count)]
    await until(lambda: lab.interceptor.budgets.arriving >= before + count)
    return calls


async def test_calls_without_a_request_are_ended_and_keep_nobody_out() -> None:
    limits = ServerLimits(maximum_concurrent_rpcs=4, reserved_rpcs=0, request_timeout=0.5)
    async with running_lab(limits) as lab:
        calls = await held(lab, lab.channel, 60)
        async with channel_to(lab.port, lab.ca, lab.ca.issue("bob")) as other:
            call: Any = other.unary_unary(f"/{SERVICE}/Unary")
            for _ in range(20):
                await call(b"", timeout=10)
        errors = await asyncio.gather(*(refusal(call) for call in calls))
        assert {(type(error), error.reason) for error in errors} == {(DeadlineExceeded, "REQUEST_NOT_RECEIVED")}
        await until(lambda: lab.interceptor.budgets.arriving == 0)
        await lab.unary("Unary")


async def test_calls_of_the_same_connection_wait_for_their_turn_to_be_read() -> None:
    async with running_lab(ServerLimits(reads_per_connection=3, request_timeout=0.5)) as lab:
        calls = await held(lab, lab.channel, 3)
        await lab.unary("Unary")
        assert lab.interceptor.budgets.refusals.total() >= 1
        assert {error.reason for error in await asyncio.gather(*(refusal(call) for call in calls))} == {
            "REQUEST_NOT_RECEIVED"
        }


async def test_who_is_not_admitted_is_refused_before_the_request() -> None:
    async with running_lab() as lab:
        error = await refusal(headers(lab.channel, "Forbidden"))
        assert (type(error), error.reason) == (PermissionDenied, "ACCESS_DENIED")


async def test_who_sends_no_request_at_all_is_told() -> None:
    async with running_lab() as lab:
        call = headers(lab.channel)
        await call.done_writing()
        error = await refusal(call)
        assert (type(error), error.reason) == (InvalidArgument, "REQUEST_MALFORMED")


async def test_beyond_so_many_without_a_request_the_oldest_is_ended() -> None:
    async with running_lab(ServerLimits(arriving_rpcs=10, request_timeout=30)) as lab:
        calls = await held(lab, lab.channel, 10)
        async with channel_to(lab.port, lab.ca, lab.ca.issue("bob")) as other:
            late = headers(other)
            await until(lambda: any(call.done() for call in calls))
            (ended,) = [call for call in calls if call.done()]
            error = await refusal(ended)
            assert (type(error), error.reason) == (ResourceExhausted, "TOO_MANY_CALLS")
            assert error.retry_after is not None
            await late.write(b"")
            await late.done_writing()
            await late


async def test_a_newcomer_is_read_even_if_all_turns_are_taken() -> None:
    """64 KiB in all and 16 KiB each: four requests are read at a time."""
    limits = ServerLimits(
        request_bytes=64 * 1024, max_request_length=16 * 1024, reads_per_connection=2, request_timeout=30
    )
    async with running_lab(limits) as lab, AsyncExitStack() as stack:
        channels = [
            await stack.enter_async_context(channel_to(lab.port, lab.ca, lab.ca.issue(f"u{number}")))
            for number in range(4)
        ]
        calls = [headers(channel) for channel in channels for _ in range(5)]
        await until(lambda: lab.interceptor.budgets.reading == 4 and sum(call.done() for call in calls) >= 2)
        for _ in range(20):
            await lab.unary("Unary")


async def test_a_client_that_leaves_before_its_request_holds_nothing() -> None:
    async with running_lab(ServerLimits(reads_per_connection=2)) as lab:
        for call in await held(lab, lab.channel, 20):
            call.cancel()
        await until(lambda: lab.interceptor.budgets.arriving == lab.interceptor.budgets.reading == 0)
        assert not lab.interceptor.budgets.refusals


async def test_calls_of_one_peer_beyond_its_share_are_refused() -> None:
    async with running_lab(ServerLimits(maximum_concurrent_rpcs=8, reserved_rpcs=0)) as lab:
        results = await asyncio.gather(*(lab.unary("Patient") for _ in range(20)), return_exceptions=True)
        errors = [from_rpc_error(item) for item in results if isinstance(item, grpc.aio.AioRpcError)]
        assert results.count(b"done") == 4
        assert {(type(error), error.reason) for error in errors} == {(ResourceExhausted, "TOO_MANY_CALLS")}
        assert all(error.retry_after for error in errors)
        assert await lab.unary("Patient") == b"done"


async def test_streams_of_health_and_reflection_have_room_of_their_own() -> None:
    limits = ServerLimits(maximum_concurrent_rpcs=2, reserved_rpcs=0, observing_rpcs=8, observing_rpcs_per_peer=3)
    async with running_lab(limits) as lab:
        health: Any = health_pb2_grpc.HealthStub(lab.channel)
        reflection: Any = reflection_pb2_grpc.ServerReflectionStub(lab.channel)
        watches = [health.Watch(health_pb2.HealthCheckRequest()) for _ in range(2)]
        for watch in watches:
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        listing = reflection.ServerReflectionInfo()
        await listing.write(reflection_pb2.ServerReflectionRequest(list_services="*"))
        assert (await listing.read()).HasField("list_services_response")
        error = await refusal(health.Watch(health_pb2.HealthCheckRequest()).read())
        assert (type(error), error.reason) == (ResourceExhausted, "TOO_MANY_CALLS")
        assert (await health.Check(health_pb2.HealthCheckRequest())).status == health_pb2.HealthCheckResponse.SERVING
        await lab.unary("Unary")
        listing.cancel()
        await until(lambda: lab.interceptor.budgets.observing == 2)
        for watch in watches:
            watch.cancel()


async def test_compressed_requests_are_refused() -> None:
    async with running_lab(ServerLimits(max_request_length=1000)) as lab:
        call: Any = lab.channel.unary_unary(f"/{SERVICE}/Unary")
        for size in (10, 100_000):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(b"x" * size, timeout=10, compression=grpc.Compression.Gzip)
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_message_above_the_limit_is_too_large_by_name() -> None:
    async with running_lab(ServerLimits(max_request_length=1000)) as lab:
        await lab.unary("Unary", b"x" * 900)
        error = await refusal(lab.unary("Unary", b"x" * 1100))
        assert (type(error), error.reason) == (ResourceExhausted, "REQUEST_TOO_LARGE")


@pytest.mark.parametrize("method", ["Unary", "Generated", "Written"])
async def test_a_request_may_come_after_its_headers(method: str) -> None:
    async with running_lab() as lab:
        begin: Any = lab.channel.stream_stream(f"/{SERVICE}/{method}")
        call = begin(timeout=10)
        await asyncio.sleep(0.1)
        await call.write(b"")
        await call.done_writing()
        assert [answer async for answer in call]
        assert lab.interceptor.budgets.running == 0
