"""Inputs and outputs that are not small: converted beside the server, bounded, and fair over callers."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.struct_pb2 import ListValue, Struct, Value

from handclasp.errors import Aborted, FailedPrecondition, HandclaspError, InvalidArgument, Reason, ResourceExhausted
from handclasp.errors.status import from_rpc_error
from handclasp.integrations.v1 import integration_service_pb2 as messages
from tests.rpc.execution_harness import Pair, running_pair, until

INTEGRATIONS = """
import os
import threading
import time
from pydantic import BaseModel, PrivateAttr, field_validator
from handclasp.authoring import JsonObject, integration

class Where(BaseModel):
    filler: str
    process: int = 0

    @field_validator("process", mode="after")
    @classmethod
    def of_validator(cls, _value):
        return os.getpid()

@integration(name="t.where", version="1.0.0")
async def where(value: Where) -> JsonObject:
    return JsonObject(validated=value.process, ran=os.getpid())

class Spins(BaseModel):
    filler: str

    @field_validator("filler")
    @classmethod
    def spin(cls, value):
        if value.startswith("spin"):
            while True:
                pass
        if value.startswith("sleep"):
            time.sleep(2)
        if value.startswith("memory"):
            return "x" * 2**34
        if value.startswith("print"):
            print("this is not for the pipe")
        if value.startswith("exit"):
            os._exit(1)
        if value.startswith("raise"):
            raise RuntimeError("the secret recipe")
        return value

@integration(name="t.spins", version="1.0.0")
async def spins(value: Spins) -> JsonObject:
    return JsonObject(length=len(value.filler))

class Unpicklable(BaseModel):
    filler: list[int]
    _lock: object = PrivateAttr(default_factory=threading.Lock)

@integration(name="t.unpicklable", version="1.0.0")
async def unpicklable(value: Unpicklable) -> Unpicklable:
    return value

@integration(name="t.large", version="1.0.0")
async def large(value: JsonObject) -> JsonObject:
    return JsonObject(items=[float("nan") if value.members["nan"] else 2**60] * 5000)
"""

FILLER = "x" * 5000
ECHO = "integrations/echo"


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    folder = tmp_path / "integrations"
    folder.mkdir()
    (folder / "large.py").write_text(INTEGRATIONS)
    inputs = {
        "maximum_input_values": 20_000,
        "processor_seconds": 0.5,
        "memory_bytes": 256 * 2**20,
        "waiting_per_caller": 2,
        "waiting": 3,
    }
    async with running_pair(tmp_path, integrations_folder=folder, inputs=inputs) as running:
        yield running


async def execute(pair: Pair, name: str, value: dict[str, Any] | str | Struct, **more: Any) -> Any:
    """The output of an integration, in the form of the input."""
    request = messages.ExecuteIntegrationRequest(name=f"integrations/{name}")
    if isinstance(value, Struct):
        request.input.CopyFrom(value)
    else:
        request.input_json = value if isinstance(value, str) else json.dumps(value)
    stub = await pair.stub(**more)
    try:
        response = await stub.ExecuteIntegration(request)
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error) from None
    return response.output if isinstance(value, Struct) else json.loads(response.output_json)


async def refusal(pair: Pair, name: str, value: dict[str, Any] | str | Struct, **more: Any) -> HandclaspError:
    with pytest.raises(HandclaspError) as caught:
        await execute(pair, name, value, **more)
    return caught.value


def structure(count: int) -> Struct:
    """One list of so many values."""
    struct = Struct()
    struct.fields["a"].list_value.CopyFrom(ListValue(values=[Value(bool_value=True)] * count))
    return struct


async def test_a_large_input_is_validated_in_another_process_and_runs_in_this_one(pair: Pair) -> None:
    answer = await execute(pair, "t.where", {"filler": FILLER, "process": 1})
    assert answer["ran"] == os.getpid() != answer["validated"]
    answer = await execute(pair, "t.where", {"filler": "", "process": 1})
    assert answer["ran"] == os.getpid() == answer["validated"]


async def test_large_values_come_back_digit_for_digit(pair: Pair) -> None:
    text = '{"a":[' + ",".join(["1.10", '"\\u00e4,[{\\""', "10000000000000000000000", "null", "{}"] * 1000) + "]}"
    stub = await pair.stub()
    response = await stub.ExecuteIntegration(messages.ExecuteIntegrationRequest(name=ECHO, input_json=text))
    assert response.output_json == text.replace("\\u00e4", "ä")
    assert (response.integration, response.version) == (ECHO, "1.0.0")
    assert await execute(pair, "echo", structure(10_000)) == structure(10_000)


@pytest.mark.parametrize(
    "value",
    [
        '{"a":[' + "1," * 20_000 + "1]}",
        '{"a":[' + "{}," * 20_000 + "[]]}",
        '{"a":[' + "[[]]," * 10_000 + "1]}",
        "{" + ",".join(f'"{number}":1' for number in range(20_000)) + "}",
        '{"a":' + '[{"b":' * 20_000,
        structure(20_000),
    ],
    ids=["numbers", "objects", "lists", "members", "deep", "structure"],
)
async def test_an_input_of_too_many_values_is_refused(pair: Pair, value: str | Struct) -> None:
    refused = await refusal(pair, "echo", value)
    assert isinstance(refused, InvalidArgument)
    assert refused.reason == Reason.INPUT_INVALID
    [violation] = refused.violations
    assert violation.field == ("input" if isinstance(value, Struct) else "input_json")
    assert "20000 values" in violation.description


async def test_what_is_within_strings_is_no_value(pair: Pair) -> None:
    value = {"a": ',[{"\\' * 20_000, "b,{": "\\"}
    assert await execute(pair, "echo", value) == value


async def test_faults_of_a_large_input_are_named(pair: Pair) -> None:
    refused = await refusal(pair, "orders.summarize", {"orders": [{}] * 15_000})
    assert refused.reason == Reason.INPUT_INVALID
    assert len(refused.violations) > 10
    assert refused.violations[0].field == "orders.0.customer"


async def test_unknown_fields_are_bounded(pair: Pair) -> None:
    channel = await pair.stack.enter_async_context(pair.channel(pair.alice))
    call: Any = channel.unary_unary("/handclasp.integrations.v1.IntegrationService/ExecuteIntegration")
    known = messages.ExecuteIntegrationRequest(name=ECHO, input_json=json.dumps({"a": FILLER})).SerializeToString()
    for beside in (
        b"\x98\x06\x01" * 100_000,
        b"\x9a\x06\xa0\x9c\x01" + b"x" * 20_000,
        b"\x9b\x06\x9c\x06",
        b"\xff" * 3000,
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(known + beside)
        assert from_rpc_error(caught.value).reason == Reason.REQUEST_MALFORMED
    # A few unknown fields are from a newer client.
    assert await call(known + b"\x9a\x06\xd0\x0f" + b"x" * 2000)


@pytest.mark.parametrize("what", ["spin", "memory", "exit"])
async def test_a_check_that_takes_too_much_ends_alone(pair: Pair, what: str) -> None:
    refused = await refusal(pair, "t.spins", {"filler": what + FILLER})
    assert isinstance(refused, InvalidArgument)
    assert refused.reason == Reason.INPUT_INVALID
    assert "send it in parts" in refused.message
    assert await execute(pair, "t.spins", {"filler": FILLER}) == {"length": 5000}


async def test_an_integration_that_prints_or_raises_while_it_validates(pair: Pair) -> None:
    assert await execute(pair, "t.spins", {"filler": "print" + FILLER}) == {"length": 5005}
    refused = await refusal(pair, "t.spins", {"filler": "raise" + FILLER})
    assert isinstance(refused, Aborted)
    assert refused.reason == Reason.INTEGRATION_FAILED
    assert "recipe" not in str(refused)


async def test_a_model_that_cannot_be_pickled_takes_fewer_values(pair: Pair) -> None:
    value = {"filler": list(range(5000))}
    assert await execute(pair, "t.unpicklable", value) == value
    refused = await refusal(pair, "t.unpicklable", {"filler": list(range(15_000))})
    assert refused.reason == Reason.INPUT_INVALID
    assert "10000 values" in refused.message


async def test_a_large_output_of_a_small_input(pair: Pair) -> None:
    assert await execute(pair, "t.large", {"nan": 0}) == {"items": [2**60] * 5000}
    nan = await refusal(pair, "t.large", {"nan": 1})
    assert nan.reason == Reason.INTEGRATION_FAILED
    small = Struct()
    small.fields["nan"].number_value = 0
    refused = await refusal(pair, "t.large", small)
    assert isinstance(refused, FailedPrecondition)
    assert refused.reason == Reason.OUTPUT_NOT_EXACT


async def test_a_caller_has_few_large_inputs_in_the_works_and_others_do_not_wait_for_them(pair: Pair) -> None:
    slow = {"filler": "sleep" + FILLER}
    running = [asyncio.create_task(execute(pair, "t.spins", slow)) for _ in range(4)]
    done, waiting = await asyncio.wait(running, timeout=0.5)
    for refused in (task.exception() for task in done):
        assert isinstance(refused, ResourceExhausted)
        assert refused.reason == Reason.INPUTS_BUSY
        assert refused.retry_after is not None
    assert len(done) == len(waiting) == 2
    # Small ones are not affected.
    assert await execute(pair, "echo", {}) == {}
    assert await asyncio.gather(*waiting) == [{"length": 5005}] * 2


async def test_conversion_processes_end_with_the_server(tmp_path: Path) -> None:
    async with running_pair(tmp_path) as running:
        assert await execute(running, "echo", {"a": FILLER})
        [child] = conversion_processes()
        os.kill(child, signal.SIGKILL)
        await until(lambda: child not in conversion_processes())
        assert await execute(running, "echo", {"a": FILLER})
        assert conversion_processes()
    assert not conversion_processes()


def conversion_processes() -> list[int]:
    """Of this process."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parent = int(status.read_text().rpartition(")")[2].split()[1])
            command = status.with_name("cmdline").read_bytes()
            if parent == os.getpid() and b"conversion_process" in command:
                found.append(int(status.parent.name))
    return found
