"""Inputs and outputs that are costly to read, check or write, beside legitimate callers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.struct_pb2 import ListValue, Struct, Value

from handclasp.errors.status import from_rpc_error
from handclasp.integrations.v1 import integration_service_pb2 as messages
from tests.e2e.attacked_pair import AttackedPair, attacked_pair
from tests.support.attacker import Counts, attacking
from tests.support.bystanders import bystanders
from tests.support.raw_http2 import Target

pytestmark = [pytest.mark.campaign, pytest.mark.attack, pytest.mark.timeout(300)]

EXECUTE = "/handclasp.integrations.v1.IntegrationService/ExecuteIntegration"
ECHO, ORDERS = "integrations/echo", "integrations/orders.summarize"
MOST = 4 * 2**20 - 300
AT_ONCE = 3
LINE = '{"sku":"a","quantity":1,"unit_price":1.1,"currency":"EUR"}'


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AttackedPair]:
    with attacked_pair(tmp_path_factory.mktemp("inputs")) as running:
        yield running


def filled(before: str, item: str, after: str, size: int = MOST) -> str:
    """A list of as many items as there is room for."""
    count = (size - len(before) - len(after)) // (len(item) + 1)
    return before + ",".join([item] * count) + after


def as_json(name: str, text: str) -> bytes:
    return messages.ExecuteIntegrationRequest(name=name, input_json=text).SerializeToString()


def as_struct(name: str, values: list[Value]) -> bytes:
    struct = Struct()
    struct.fields["orders"].list_value.CopyFrom(ListValue(values=values))
    return messages.ExecuteIntegrationRequest(name=name, input=struct).SerializeToString()


def of_lines(count: int) -> str:
    return '{"orders":[{"customer":"c","lines":[' + ",".join([LINE] * count) + "]}]}"


INPUTS: dict[str, Callable[[], bytes]] = {
    "wrong orders": lambda: as_json(ORDERS, filled('{"orders":[', "{}", "]}")),
    "wrong orders, as many as may be": lambda: as_json(ORDERS, filled('{"orders":[', "{}", "]}", 290_000)),
    "small wrong orders": lambda: as_json(ORDERS, filled('{"orders":[', "{}", "]}", 1900)),
    "keys that are not known": lambda: as_json(
        ORDERS, filled('{"orders":[{"customer":"c","lines":[', '{"a":1,"b":1,"c":1}', "]}]}", 400_000)
    ),
    "right orders": lambda: as_json(ORDERS, of_lines(19_000)),
    "right orders, too many": lambda: as_json(ORDERS, of_lines(70_000)),
    "many customers": lambda: as_json(
        ORDERS,
        json.dumps({"orders": [{"customer": f"c{number}", "lines": [json.loads(LINE)]} for number in range(12_000)]}),
    ),
    "many numbers": lambda: as_json(ECHO, filled('{"a":[', "1.0", "]}", 390_000)),
    "many names": lambda: as_json(ECHO, "{" + ",".join(f'"{number:x}":1' for number in range(90_000)) + "}"),
    "a name repeated": lambda: as_json(ECHO, filled("{", '"a":1', "}", 500_000)),
    "a huge whole number": lambda: as_json(ECHO, '{"a":' + "9" * 4_000_000 + "}"),
    "a huge fraction": lambda: as_json(ECHO, '{"a":' + "1" * 4_000_000 + ".5}"),
    "escapes": lambda: as_json(ECHO, '{"a":"' + "\\u0041" * 690_000 + '"}'),
    "escapes without an end": lambda: as_json(ECHO, '{"a":"' + '\\"' * 2_000_000),
    "deep": lambda: as_json(ECHO, '{"a":' + "[" * 2_000_000 + "]" * 2_000_000 + "}"),
    "wide and deep": lambda: as_json(ECHO, '{"a":[' + ",".join(["[" * 97 + "]" * 97] * 1000) + "]}"),
    "not numbers": lambda: as_json(ECHO, filled('{"a":[', "NaN", "]}")),
    "not UTF-8": lambda: as_json(ECHO, "x" * 4_000_000)[:-1] + b"\xff",
    "a structure": lambda: as_struct(ECHO, [Value(bool_value=True)] * 45_000),
    "a structure, too many": lambda: as_struct(ORDERS, [Value()] * 2_000_000),
    "a structure of wrong orders": lambda: as_struct(ORDERS, [Value(struct_value=Struct())] * 90_000),
    "unknown fields": lambda: as_json(ECHO, "{}") + b"\x98\x06\x01" * 1_300_000,
}


async def send(counts: Counts, target: Target, request: bytes) -> None:
    """Sends it again and again, a few at once."""
    credentials = grpc.ssl_channel_credentials(target.ca_pem, target.key_pem, target.certificate_pem)
    options = [("grpc.max_receive_message_length", 64 * 2**20), ("grpc.max_send_message_length", 64 * 2**20)]
    async with grpc.aio.secure_channel(f"localhost:{target.port}", credentials, options=options) as channel:
        call: Any = channel.unary_unary(EXECUTE)

        async def again() -> None:
            while True:
                try:
                    await call(request, timeout=60)
                    counts["answered"] += 1
                except grpc.aio.AioRpcError as error:
                    counts[from_rpc_error(error).reason] += 1
                    # As whoever heeds RetryInfo, and a little less.
                    await asyncio.sleep(0.2)

        await asyncio.gather(*(again() for _ in range(AT_ONCE)))


@pytest.mark.parametrize("kind", INPUTS)
def test_a_costly_input_holds_nobody_up(attacked: AttackedPair, kind: str) -> None:
    target = attacked.target("executions", "low")
    kept = [bystander for bystander in attacked.bystanders() if bystander.name == "8443, kept connection"]
    with bystanders(*kept) as crowd:
        crowd.call_quietly(4)
        with attacking(send, target, INPUTS[kind]()) as attack:
            crowd.call_under_attack(8)
    print(kind, dict(attack.counts))
    assert attack.counts.total() > 0
    assert not {"INTERNAL", "UNKNOWN", "AUTHORIZER_UNAVAILABLE"} & set(attack.counts)
    crowd.assert_served()
