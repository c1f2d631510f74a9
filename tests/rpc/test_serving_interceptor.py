"""Calls of every kind through the interceptor, over real TLS."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import structlog
from google.protobuf.duration_pb2 import Duration
from grpc_health.v1 import health_pb2, health_pb2_grpc

from handclasp.errors import HandclaspError, Internal, InvalidArgument, PermissionDenied, Unavailable, Unimplemented
from handclasp.errors.status import from_rpc_error
from handclasp.serving.peer import Peer
from tests.rpc.execution_harness import until
from tests.rpc.transport_lab import SERVICE, Lab, running_lab, translate_storage


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    async with running_lab(translate=translate_storage) as running:
        yield running


async def refusal(call: Any) -> HandclaspError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


async def stream_refusal(call: Any) -> tuple[list[bytes], HandclaspError]:
    """What a stream gave before it ended with an error, and the error."""
    given: list[bytes] = []

    async def collect() -> None:
        async for part in call:
            given.append(part)  # noqa: PERF401 what came before the error counts

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await collect()
    return given, from_rpc_error(caught.value)


async def test_every_kind_of_handler_knows_its_peer_and_caller(lab: Lab) -> None:
    assert await lab.unary("Unary") == b"users/alice 127.0.0.1"
    assert [part async for part in lab.stream("Generated")] == [b"first", b"127.0.0.1"]
    assert [part async for part in lab.stream("Written")] == [b"first", b"127.0.0.1"]
    collected: Any = lab.channel.stream_unary(f"/{SERVICE}/Collected")
    assert await collected(iter([b"a", b"b"])) == b"ab"
    echoed: Any = lab.channel.stream_stream(f"/{SERVICE}/Echoed")
    assert [part async for part in echoed(iter([b"a", b"b"]))] == [b"a", b"b"]


async def test_typed_errors_arrive_as_themselves_from_every_kind(lab: Lab) -> None:
    errors = [await refusal(lab.unary("Unary", b"typed"))]
    for method in ("Generated", "Written"):
        given, error = await stream_refusal(lab.stream(method, b"typed"))
        assert given == [b"first"]
        errors.append(error)
    collected: Any = lab.channel.stream_unary(f"/{SERVICE}/Collected")
    errors.append(await refusal(collected(iter([b"a", b"typed"]), timeout=10)))
    echoed: Any = lab.channel.stream_stream(f"/{SERVICE}/Echoed")
    given, error = await stream_refusal(echoed(iter([b"a", b"typed"]), timeout=10))
    assert given == [b"a"]
    for item in (*errors, error):
        assert type(item) is PermissionDenied
        assert (item.reason, item.message) == ("ACCESS_DENIED", "typed on purpose")


@pytest.mark.parametrize("what", [b"unforeseen", b"cancelled"])
async def test_what_was_not_foreseen_is_internal_and_says_nothing(lab: Lab, what: bytes) -> None:
    errors = [await refusal(lab.unary("Unary", what))]
    errors += [(await stream_refusal(lab.stream(method, what)))[1] for method in ("Generated", "Written")]
    for error in errors:
        assert type(error) is Internal
        assert "recipe" not in error.message
        assert error.metadata["incident"] in error.message
    assert len({error.metadata["incident"] for error in errors}) == 3


async def test_services_translate_what_they_foresee(lab: Lab) -> None:
    with structlog.testing.capture_logs() as lines:
        error = await refusal(lab.unary("Unary", b"storage"))
    assert type(error) is Unavailable
    assert error.reason == "STORAGE_UNAVAILABLE"
    # Whoever called is told to have somebody look at the log.
    assert [line["cause"].partition(":")[0] for line in lines] == ["OSError"]


async def test_what_does_not_parse_is_refused_where_it_is_read_from_the_context(lab: Lab) -> None:
    measured: Any = lab.channel.stream_unary(f"/{SERVICE}/Measured")
    requests = [Duration(seconds=seconds).SerializeToString() for seconds in (2, 3)]
    assert await measured(iter(requests)) == b"5"
    error = await refusal(measured(iter([*requests, b"\xff"])))
    assert (type(error), error.reason) == (InvalidArgument, "REQUEST_MALFORMED")


async def test_a_handler_that_aborts_by_itself_is_left_alone(lab: Lab) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await lab.unary("Unary", b"abort")
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.OUT_OF_RANGE, "aborted by itself")


async def test_who_is_not_admitted_does_not_reach_the_handler(lab: Lab) -> None:
    error = await refusal(lab.unary("Forbidden", b"unforeseen"))
    assert type(error) is PermissionDenied
    assert error.metadata == {"decision": "decisions/d7"}


async def test_health_is_for_those_who_are_admitted() -> None:
    admitted = False

    async def admitting(method: str, peer: Peer) -> None:
        if not (admitted and method.startswith("/grpc.health.v1.Health/")):
            raise PermissionDenied("ACCESS_DENIED", "nobody")

    async with running_lab(admitting=admitting) as lab:
        health: Any = health_pb2_grpc.HealthStub(lab.channel)
        assert type(await refusal(health.Check(health_pb2.HealthCheckRequest()))) is PermissionDenied
        admitted = True
        status = await health.Check(health_pb2.HealthCheckRequest())
    assert status.status == health_pb2.HealthCheckResponse.SERVING


async def test_what_is_not_there_is_unimplemented(lab: Lab) -> None:
    for method in ("Synchronous", "Nowhere"):
        error = await refusal(lab.unary(method))
        assert type(error) is Unimplemented
        assert error.reason == "METHOD_UNKNOWN"


async def test_a_client_that_leaves_a_stream_ends_it_even_while_it_is_blocked(lab: Lab) -> None:
    call = lab.stream("Endless")
    assert len(await call.read()) == 65536
    assert lab.kinds.open_streams == 1
    call.cancel()
    await until(lambda: lab.kinds.open_streams == 0)


async def test_a_refusal_is_one_line_in_the_log_without_secrets(lab: Lab) -> None:
    header = (("authorization", "Basic YWxpY2U6aHVudGVyMg=="),)
    with structlog.testing.capture_logs() as lines:
        call: Any = lab.channel.unary_unary(f"/{SERVICE}/Unary")
        await refusal(call(b"typed", metadata=header))
        await refusal(lab.unary("Forbidden"))
    in_handler, not_admitted = lines
    assert in_handler["event"] == not_admitted["event"] == "refused"
    assert in_handler["method"] == f"/{SERVICE}/Unary"
    assert (in_handler["reason"], in_handler["status"]) == ("ACCESS_DENIED", "PERMISSION_DENIED")
    assert (in_handler["user"], in_handler["peer"]) == ("users/alice", "127.0.0.1")
    assert len(in_handler["fingerprint"]) == 64
    assert not_admitted["decision"] == "decisions/d7"
    assert "user" not in not_admitted
    assert "hunter2" not in str(lines)
    assert "YWxpY2U6" not in str(lines)
