"""The execution server over real TLS, with its trust bundle followed and with it fixed."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.struct_pb2 import Struct
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from handclasp.authorization.v1 import decision_pb2, permission_pb2
from handclasp.errors import (
    Aborted,
    DeadlineExceeded,
    FailedPrecondition,
    HandclaspError,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Reason,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)
from handclasp.errors.status import from_rpc_error
from handclasp.integration_execution.main import serve
from handclasp.integrations.v1 import integration_service_pb2 as messages
from handclasp.integrations.v1.integration_service_pb2_grpc import IntegrationServiceStub
from handclasp.transport.lifecycle import StopRequests
from tests.rpc.execution_harness import (
    PERMISSION_MISSING,
    Pair,
    certificate_service,
    execution_settings,
    running_pair,
    until,
    wait_until_ready,
)
from tests.support.outside_ca import OutsideCA

NEWER_REASON: Any = 99

PLUGINS = """
import asyncio
from pydantic import BaseModel, Field, model_serializer, model_validator
from handclasp.authoring import JsonObject, integration
from handclasp.transport.interceptor import current_peer

class Wish(BaseModel):
    number: int = 1
    text: str = Field("", max_length=5)

class Gift(BaseModel):
    number: float | int = 0
    text: str = ""

cancelled = asyncio.Event()

@integration(name="t.fails", version="1.0.0")
async def fails(value: Wish) -> Gift:
    raise RuntimeError("the secret recipe")

@integration(name="t.slow", version="1.0.0", timeout=0.2)
async def slow(value: Wish) -> Gift:
    await asyncio.sleep(60)
    return Gift()

@integration(name="t.waits", version="1.0.0")
async def waits(value: Wish) -> Gift:
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        cancelled.set()
        raise
    return Gift()

@integration(name="t.cancelled", version="1.0.0")
async def was_cancelled(value: Wish) -> Gift:
    await asyncio.wait_for(cancelled.wait(), 5)
    return Gift(text="yes")

@integration(name="t.cancels-itself", version="1.0.0")
async def cancels_itself(value: Wish) -> Gift:
    raise asyncio.CancelledError

@integration(name="t.exits", version="1.0.0")
async def exits(value: Wish) -> Gift:
    raise SystemExit(3)

@integration(name="t.gives", version="1.0.0")
async def gives_old(value: Wish) -> Gift:
    return Gift(text="old")

@integration(name="t.gives", version="1.10.0")
async def gives(value: Wish) -> Gift:
    return Gift(number=value.number)

@integration(name="t.gives", version="1.9.0")
async def gives_middle(value: Wish) -> Gift:
    return Gift(text="middle")

@integration(name="t.nan", version="1.0.0")
async def nan(value: Wish) -> Gift:
    return Gift(number=float("nan"))

@integration(name="t.surrogate", version="1.0.0")
async def surrogate(value: Wish) -> JsonObject:
    return JsonObject(text="\\ud800")

@integration(name="t.huge", version="1.0.0")
async def huge(value: Wish) -> JsonObject:
    return JsonObject(number=10**5000)

@integration(name="t.keys", version="1.0.0")
async def keys(value: Wish) -> JsonObject:
    return JsonObject(inner={1: 2})

@integration(name="t.other-type", version="1.0.0")
async def other_type(value: Wish) -> Gift:
    return {"number": 1}

class NoObject(BaseModel):
    @model_serializer
    def as_list(self) -> list[int]:
        return [1]

@integration(name="t.list", version="1.0.0")
async def a_list(value: Wish) -> NoObject:
    return NoObject()

class Picky(BaseModel):
    @model_validator(mode="before")
    @classmethod
    def look(cls, value: dict) -> dict:
        raise KeyError("the secret recipe")

@integration(name="t.picky", version="1.0.0")
async def picky(value: Picky) -> Gift:
    return Gift()

@integration(name="t.peer", version="1.0.0")
async def peer(value: Wish) -> Gift:
    return Gift(text=current_peer().fingerprint or "")

@integration(name="t.disabled", version="1.0.0", enabled=False)
async def disabled(value: Wish) -> Gift:
    return Gift()
"""


def plugin_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "integrations"
    folder.mkdir(exist_ok=True)
    (folder / "for_tests.py").write_text(PLUGINS)
    return folder


@pytest.fixture(params=[True, False], ids=["reloading", "fixed"])
async def pair(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Pair]:
    folder = plugin_folder(tmp_path)
    async with running_pair(tmp_path, reload_trust=request.param, integrations_folder=folder) as running:
        yield running


def execute(name: str, **fields: Any) -> messages.ExecuteIntegrationRequest:
    return messages.ExecuteIntegrationRequest(name=f"integrations/{name}", **fields)


async def refusal(call: Any) -> HandclaspError:
    """The typed error that a call ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


def basic(username: str, password: str) -> tuple[tuple[str, str]]:
    return (("authorization", "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()),)


async def test_echo_gives_back_a_structure(pair: Pair) -> None:
    stub = await pair.stub()
    given = {"a": 1, "b": [1.5, None, True, {"c": "d"}], "e": {}, "f": []}
    response = await stub.ExecuteIntegration(execute("echo", input=ParseDict(given, Struct())))
    assert MessageToDict(response.output) == given
    assert (response.integration, response.version) == ("integrations/echo", "1.0.0")


async def test_echo_gives_back_json_text_digit_for_digit(pair: Pair) -> None:
    stub = await pair.stub()
    text = '{"a":12345678901234567890123,"b":[0.10,1e400,-0.0,3.1415926535897932384626433],"c":"ä\\n\\"","d":{"e":[]}}'
    response = await stub.ExecuteIntegration(execute("echo", input_json=text))
    assert response.output_json == text


async def test_no_input_is_an_empty_object(pair: Pair) -> None:
    stub = await pair.stub()
    response = await stub.ExecuteIntegration(execute("echo"))
    assert response.WhichOneof("output_form") == "output"
    assert not response.output.fields


async def test_orders_are_summed_exactly(pair: Pair) -> None:
    stub = await pair.stub()
    text = """{"orders": [
        {"customer": "b", "lines": [{"sku": "x", "quantity": 3, "unit_price": 0.10, "currency": "EUR"},
                                    {"sku": "y", "quantity": 1, "unit_price": "0.0000000000001", "currency": "EUR"}]}
    ]}"""
    error = await refusal(stub.ExecuteIntegration(execute("orders.summarize", input_json=text)))
    assert [violation.field for violation in error.violations] == ["orders.0.lines.1.unit_price"]
    response = await stub.ExecuteIntegration(
        execute("orders.summarize", input_json=text.replace("0.0000000000001", "123456789012345678.000000000001"))
    )
    summary = json.loads(response.output_json)
    assert summary["totals"] == [{"customer": "b", "currency": "EUR", "total": "123456789012345678.300000000001"}]
    assert (summary["order_count"], summary["line_count"]) == (1, 2)


async def test_every_call_asks_with_certificate_credentials_and_address(pair: Pair) -> None:
    stub = await pair.stub()
    await stub.ExecuteIntegration(execute("echo"), metadata=basic("alice", "pässwörd"))
    await stub.ExecuteIntegration(execute("echo"))
    first, second = pair.service.checked
    assert first.peer_certificate == pair.alice.der
    assert first.permission == permission_pb2.PERMISSION_EXECUTE_INTEGRATIONS
    assert (first.resource, first.peer_address) == ("integrations/echo", "127.0.0.1")
    assert (first.basic_credentials.username, first.basic_credentials.password) == ("alice", "pässwörd")
    assert not second.HasField("basic_credentials")


@pytest.mark.parametrize(
    ("reason", "error_type", "error_reason"),
    [
        ("UNKNOWN_CERTIFICATE", Unauthenticated, "CERTIFICATE_NOT_ACCEPTED"),
        ("REVOKED", Unauthenticated, "CERTIFICATE_NOT_ACCEPTED"),
        ("ON_HOLD", Unauthenticated, "CERTIFICATE_NOT_ACCEPTED"),
        ("EXPIRED", Unauthenticated, "CERTIFICATE_NOT_ACCEPTED"),
        ("NOT_YET_VALID", Unauthenticated, "CERTIFICATE_NOT_ACCEPTED"),
        ("USER_DISABLED", Unauthenticated, "CERTIFICATE_NOT_ACCEPTED"),
        ("ANCHOR_REMOVED", Unauthenticated, "CERTIFICATE_NOT_ACCEPTED"),
        ("CREDENTIALS_INVALID", Unauthenticated, "CREDENTIALS_INVALID"),
        ("CREDENTIALS_MISMATCH", Unauthenticated, "CREDENTIALS_MISMATCH"),
        ("CREDENTIALS_THROTTLED", ResourceExhausted, "CREDENTIALS_THROTTLED"),
        ("PERMISSION_MISSING", PermissionDenied, "ACCESS_DENIED"),
        ("RESOURCE_NOT_GRANTED", PermissionDenied, "ACCESS_DENIED"),
    ],
)
async def test_a_no_is_told_coarsely(
    pair: Pair, reason: str, error_type: type[HandclaspError], error_reason: str
) -> None:
    pair.service.reasons[pair.alice.der] = decision_pb2.DecisionReason.Value(f"DECISION_REASON_{reason}")
    stub = await pair.stub()
    error = await refusal(stub.ExecuteIntegration(execute("echo")))
    assert type(error) is error_type
    assert error.reason == error_reason
    assert error.metadata["decision"] == "decisions/d1"
    assert "handclasp explain d1" in error.message
    if error_reason in {"CERTIFICATE_NOT_ACCEPTED", "ACCESS_DENIED"}:
        assert reason not in error.message
    if error_type is ResourceExhausted:
        assert error.retry_after is not None
        assert error.retry_after.total_seconds() == 7


async def test_a_decision_of_a_newer_service_is_a_no(pair: Pair) -> None:
    pair.service.reasons[pair.alice.der] = NEWER_REASON
    stub = await pair.stub()
    assert type(await refusal(stub.ExecuteIntegration(execute("echo")))) is PermissionDenied


async def test_a_yes_to_another_question_is_no_yes(pair: Pair) -> None:
    stub = await pair.stub()
    pair.service.answer_about = "integrations/other"
    for call in (stub.ExecuteIntegration(execute("echo")), stub.ListIntegrations(messages.ListIntegrationsRequest())):
        assert (await refusal(call)).reason == "AUTHORIZER_UNAVAILABLE"
    pair.service.answer_about = None
    pair.service.batch_loss = 1
    error = await refusal(stub.ListIntegrations(messages.ListIntegrationsRequest()))
    assert error.reason == "AUTHORIZER_UNAVAILABLE"


async def test_taken_away_on_an_open_connection_it_is_refused_at_the_next_call(pair: Pair) -> None:
    stub = await pair.stub()
    await stub.ExecuteIntegration(execute("echo"))
    pair.service.reasons[pair.alice.der] = decision_pb2.DECISION_REASON_REVOKED
    assert type(await refusal(stub.ExecuteIntegration(execute("echo")))) is Unauthenticated


@pytest.mark.parametrize(
    "code",
    [
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.INVALID_ARGUMENT,
    ],
)
async def test_whatever_the_certificate_service_fails_with_is_unavailable(pair: Pair, code: grpc.StatusCode) -> None:
    stub = await pair.stub()
    pair.service.failure = code
    for call in (stub.ExecuteIntegration(execute("echo")), stub.ListIntegrations(messages.ListIntegrationsRequest())):
        error = await refusal(call)
        assert type(error) is Unavailable
        assert error.reason == "AUTHORIZER_UNAVAILABLE"
        assert "told to fail" not in error.message
    pair.service.failure = None
    await stub.ExecuteIntegration(execute("echo"))


async def test_that_too_many_passwords_wait_is_the_peers_to_know(pair: Pair) -> None:
    pair.service.refusal = ResourceExhausted(Reason.PASSWORD_CHECKS_BUSY, "busy", retry_after=timedelta(seconds=1))
    error = await refusal((await pair.stub()).ExecuteIntegration(execute("echo")))
    assert type(error) is ResourceExhausted
    assert (error.reason, error.retry_after) == ("PASSWORD_CHECKS_BUSY", timedelta(seconds=1))


async def test_a_client_without_certificate_does_not_get_through_the_handshake(pair: Pair) -> None:
    async with pair.channel(None) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Check(health_pb2.HealthCheckRequest(), timeout=5)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_client_of_a_foreign_ca_does_not_get_through_the_handshake(pair: Pair) -> None:
    stub = await pair.stub(OutsideCA("Foreign CA").issue("alice"))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.ExecuteIntegration(execute("echo"), timeout=5)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert not pair.service.checked


async def test_health_and_reflection_ask_nobody(pair: Pair) -> None:
    async with pair.channel(pair.alice) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", "handclasp.integrations.v1.IntegrationService"):
            status = await health.Check(health_pb2.HealthCheckRequest(service=service))
            assert status.status == health_pb2.HealthCheckResponse.SERVING
        reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        answers = [answer async for answer in reflection.ServerReflectionInfo(iter([request]))]
        names = {service.name for service in answers[0].list_services_response.service}
    assert "handclasp.integrations.v1.IntegrationService" in names
    assert not pair.service.checked


async def test_missing_is_told_only_to_who_may(pair: Pair) -> None:
    stub = await pair.stub()
    assert type(await refusal(stub.ExecuteIntegration(execute("nothing")))) is NotFound
    hidden_missing = messages.GetIntegrationRequest(name="integrations/nothing")
    pair.service.reasons[pair.alice.der] = PERMISSION_MISSING
    assert type(await refusal(stub.ExecuteIntegration(execute("nothing")))) is PermissionDenied
    missing = await refusal(stub.GetIntegration(hidden_missing))
    hidden = await refusal(stub.GetIntegration(messages.GetIntegrationRequest(name="integrations/echo")))
    assert type(hidden) is type(missing) is NotFound
    assert hidden.message.replace("echo", "nothing") == missing.message
    assert hidden.metadata == missing.metadata == {}


async def test_versions(pair: Pair) -> None:
    stub = await pair.stub()
    newest = await stub.ExecuteIntegration(execute("t.gives", input_json='{"number":5}'))
    assert (newest.version, newest.output_json) == ("1.10.0", '{"number":5,"text":""}')
    older = await stub.ExecuteIntegration(execute("t.gives", version="1.9.0"))
    assert older.version == "1.9.0"
    assert older.output["text"] == "middle"
    error = await refusal(stub.ExecuteIntegration(execute("t.gives", version="7.0.0")))
    assert error.reason == "INTEGRATION_NOT_FOUND"


async def test_get_shows_the_schemas(pair: Pair) -> None:
    stub = await pair.stub()
    found = await stub.GetIntegration(messages.GetIntegrationRequest(name="integrations/orders.summarize"))
    assert found.enabled
    assert found.timeout.seconds == 30
    assert "orders" in MessageToDict(found.input_schema)["properties"]
    assert "totals" in MessageToDict(found.output_schema)["properties"]


async def test_list_shows_what_the_caller_may_run_in_pages(pair: Pair) -> None:
    stub = await pair.stub()
    pair.service.granted[pair.alice.der] = {"integrations/echo", "integrations/t.gives", "integrations/t.slow"}
    first = await stub.ListIntegrations(messages.ListIntegrationsRequest(page_size=2))
    assert [(item.name, item.version) for item in first.integrations] == [
        ("integrations/echo", "1.0.0"),
        ("integrations/t.gives", "1.10.0"),
    ]
    request = messages.ListIntegrationsRequest(page_size=2, page_token=first.next_page_token)
    second = await stub.ListIntegrations(request)
    assert [item.name for item in second.integrations] == ["integrations/t.slow"]
    assert second.next_page_token == ""
    bob = pair.ca.issue("bob")
    pair.service.reasons[bob.der] = decision_pb2.DECISION_REASON_ALLOWED
    error = await refusal((await pair.stub(bob)).ListIntegrations(request))
    assert error.reason == "PAGE_TOKEN_INVALID"


async def test_list_is_empty_for_who_may_nothing_and_refused_for_who_is_not_accepted(pair: Pair) -> None:
    stub = await pair.stub()
    pair.service.reasons[pair.alice.der] = PERMISSION_MISSING
    assert not (await stub.ListIntegrations(messages.ListIntegrationsRequest())).integrations
    del pair.service.reasons[pair.alice.der]
    assert type(await refusal(stub.ListIntegrations(messages.ListIntegrationsRequest()))) is Unauthenticated


@pytest.mark.parametrize(
    "request_",
    [
        messages.ListIntegrationsRequest(page_size=-1),
        messages.ListIntegrationsRequest(page_token="forged"),
        messages.ListIntegrationsRequest(page_token="ünï" * 1000),
    ],
)
async def test_bad_pages_are_refused(pair: Pair, request_: messages.ListIntegrationsRequest) -> None:
    assert type(await refusal((await pair.stub()).ListIntegrations(request_))) is InvalidArgument


@pytest.mark.parametrize("name", ["", "echo", "integrations/", "integrations/Echo", "integrations/a/b", "x" * 5000])
async def test_bad_names_are_refused(pair: Pair, name: str) -> None:
    stub = await pair.stub()
    for call in (
        stub.ExecuteIntegration(messages.ExecuteIntegrationRequest(name=name)),
        stub.GetIntegration(messages.GetIntegrationRequest(name=name)),
    ):
        error = await refusal(call)
        assert type(error) is InvalidArgument
        assert [violation.field for violation in error.violations] == ["name"]


async def test_bytes_that_are_no_request_are_an_invalid_argument(pair: Pair) -> None:
    async with pair.channel(pair.alice) as channel:
        call: Any = channel.unary_unary("/handclasp.integrations.v1.IntegrationService/ExecuteIntegration")
        error = await refusal(call(b"\xff\xff\xff"))
    assert type(error) is InvalidArgument
    assert error.reason == "REQUEST_MALFORMED"


async def test_each_field_that_does_not_fit_is_named(pair: Pair) -> None:
    stub = await pair.stub()
    error = await refusal(stub.ExecuteIntegration(execute("t.gives", input_json='{"number":"x","text":"too long"}')))
    assert type(error) is InvalidArgument
    assert error.reason == "INPUT_INVALID"
    assert [violation.field for violation in error.violations] == ["number", "text"]


async def test_very_many_faults_still_reach_the_client(pair: Pair) -> None:
    stub = await pair.stub()
    orders = [{"customer": "ü" * 300, "lines": "none"}] * 1000
    error = await refusal(
        stub.ExecuteIntegration(execute("orders.summarize", input_json=json.dumps({"orders": orders})))
    )
    assert error.reason == "INPUT_INVALID"
    assert error.violations[0].field == "orders.0.customer"
    assert error.violations[-1].description.startswith("and ")


async def test_what_fails_is_aborted_without_its_text(pair: Pair) -> None:
    stub = await pair.stub()
    names = (
        "t.fails",
        "t.cancels-itself",
        "t.exits",
        "t.nan",
        "t.surrogate",
        "t.keys",
        "t.other-type",
        "t.list",
        "t.picky",
    )
    calls = [execute(name) for name in names] + [execute(name, input_json="{}") for name in (*names, "t.huge")]
    for call in calls:
        error = await refusal(stub.ExecuteIntegration(call, timeout=5))
        assert type(error) is Aborted, call
        assert error.reason == "INTEGRATION_FAILED"
        assert "recipe" not in error.message
    await stub.ExecuteIntegration(execute("echo"))


async def test_what_takes_too_long_is_cut(pair: Pair) -> None:
    stub = await pair.stub()
    error = await refusal(stub.ExecuteIntegration(execute("t.slow")))
    assert type(error) is DeadlineExceeded
    assert error.reason == "INTEGRATION_TIMED_OUT"


async def test_a_deadline_cancels_the_integration(pair: Pair) -> None:
    stub = await pair.stub()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.ExecuteIntegration(execute("t.waits"), timeout=0.3)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    response = await stub.ExecuteIntegration(execute("t.cancelled"))
    assert response.output["text"] == "yes"


async def test_a_client_that_leaves_cancels_the_integration(pair: Pair) -> None:
    stub = await pair.stub()
    call = stub.ExecuteIntegration(execute("t.waits"))
    await until(lambda: bool(pair.service.checked))
    await asyncio.sleep(0.1)
    call.cancel()
    response = await stub.ExecuteIntegration(execute("t.cancelled"))
    assert response.output["text"] == "yes"


async def test_a_structure_never_holds_a_number_that_is_not_exact(pair: Pair) -> None:
    stub = await pair.stub()
    big = 2**53 + 1
    as_text = await stub.ExecuteIntegration(execute("t.gives", input_json=f'{{"number":{big}}}'))
    assert json.loads(as_text.output_json)["number"] == big
    given = ParseDict({"number": str(big)}, Struct())
    error = await refusal(stub.ExecuteIntegration(execute("t.gives", input=given)))
    assert type(error) is FailedPrecondition
    assert error.reason == "OUTPUT_NOT_EXACT"


async def test_a_disabled_integration_is_listed_and_not_run(pair: Pair) -> None:
    stub = await pair.stub()
    error = await refusal(stub.ExecuteIntegration(execute("t.disabled")))
    assert type(error) is FailedPrecondition
    assert error.reason == "INTEGRATION_DISABLED"
    listed = (await stub.ListIntegrations(messages.ListIntegrationsRequest())).integrations
    assert {item.name: item.enabled for item in listed}["integrations/t.disabled"] is False


async def test_an_integration_sees_its_peer(pair: Pair) -> None:
    stub = await pair.stub()
    response = await stub.ExecuteIntegration(execute("t.peer"))
    assert response.output["text"] == hashlib.sha256(pair.alice.der).hexdigest()


async def test_malformed_basic_credentials_are_refused(pair: Pair) -> None:
    stub = await pair.stub()
    for metadata in ((("authorization", "Bearer x"),), basic("alice", "a") + basic("alice", "b")):
        error = await refusal(stub.ExecuteIntegration(execute("echo"), metadata=metadata))
        assert type(error) is Unauthenticated
        assert error.reason == "CREDENTIALS_MALFORMED"
    assert not pair.service.checked


def get(url: str) -> tuple[int, dict[str, str]]:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:  # noqa: S310 a loopback URL made here
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


async def wait_for_status(url: str, status: int) -> None:
    while (await asyncio.to_thread(get, url))[0] != status:  # noqa: ASYNC110 the server is asked, it does not tell
        await asyncio.sleep(0.02)


async def test_http_health(pair: Pair) -> None:
    base = f"http://127.0.0.1:{pair.health_port}"
    assert await asyncio.to_thread(get, f"{base}/livez") == (200, {"status": "live"})
    assert await asyncio.to_thread(get, f"{base}/readyz") == (200, {"status": "ready"})


async def wait_for_bundles(pair: Pair, count: int) -> None:
    """Returns when the bundle was read, and acted upon, that often from now on."""
    wanted = pair.service.bundles_read + count + 1
    await until(lambda: pair.service.bundles_read >= wanted)


async def test_trust_anchors_are_followed_if_reloading_and_only_then(
    pair: Pair, request: pytest.FixtureRequest
) -> None:
    reloading = request.node.callspec.params["pair"]
    outside = OutsideCA("Outside CA")
    bob = outside.issue("bob")
    pair.service.reasons[bob.der] = decision_pb2.DECISION_REASON_ALLOWED
    pair.service.trust_anchors.append(outside.pem)
    old = await pair.stub()
    await old.ExecuteIntegration(execute("echo"))
    if not reloading:
        with pytest.raises(grpc.aio.AioRpcError):
            await (await pair.stub(bob)).ExecuteIntegration(execute("echo"), timeout=5)
        return
    await wait_for_bundles(pair, 1)
    await (await pair.stub(bob)).ExecuteIntegration(execute("echo"), timeout=5)
    pair.service.trust_anchors.clear()
    await wait_for_bundles(pair, 1)
    with pytest.raises(grpc.aio.AioRpcError):
        await (await pair.stub(bob)).ExecuteIntegration(execute("echo"), timeout=5)
    await (await pair.stub()).ExecuteIntegration(execute("echo"), timeout=5)


async def test_a_leaf_among_the_anchors_is_left_out_and_the_rest_followed(tmp_path: Path) -> None:
    async with running_pair(tmp_path) as pair:
        outside = OutsideCA("Outside CA")
        bob = outside.issue("bob")
        pair.service.reasons[bob.der] = decision_pb2.DECISION_REASON_ALLOWED
        pair.service.trust_anchors += [bob.pem, "garbage", outside.pem]
        await wait_for_bundles(pair, 1)
        await (await pair.stub(bob)).ExecuteIntegration(execute("echo"), timeout=5)


async def test_not_ready_while_the_certificate_service_fails(tmp_path: Path) -> None:
    async with running_pair(tmp_path) as pair:
        pair.service.failure = grpc.StatusCode.UNAVAILABLE
        url = f"http://127.0.0.1:{pair.health_port}/readyz"
        await wait_for_status(url, 503)
        pair.service.failure = None
        await wait_for_status(url, 200)


async def test_a_slow_certificate_service_is_unavailable(tmp_path: Path) -> None:
    async with running_pair(tmp_path, decision_timeout=0.5) as pair:
        stub = await pair.stub()
        await stub.ExecuteIntegration(execute("echo"))
        pair.service.delay = 5
        error = await refusal(stub.ExecuteIntegration(execute("echo"), timeout=10))
        assert error.reason == "AUTHORIZER_UNAVAILABLE"


async def test_waits_for_the_certificate_service_and_survives_its_absence(tmp_path: Path) -> None:
    ca = OutsideCA("Test CA")
    alice = ca.issue("alice")
    async with certificate_service(ca) as (_, port):
        pass  # only to learn of a port that is free
    settings = execution_settings(tmp_path, ca, port, reload_trust=False)
    stop = StopRequests()
    serving = asyncio.create_task(serve(settings, stop))
    await asyncio.sleep(0.3)
    assert not (tmp_path / "ready.json").exists()
    async with certificate_service(ca, port) as (service, _):
        service.reasons[alice.der] = decision_pb2.DECISION_REASON_ALLOWED
        ready = await wait_until_ready(tmp_path / "ready.json", serving)
        credentials = grpc.ssl_channel_credentials(ca.pem.encode(), alice.key_pem.encode(), alice.pem.encode())
        channel = grpc.aio.secure_channel(f"127.0.0.1:{ready['port']}", credentials)
        stub = IntegrationServiceStub(channel)
        await stub.ExecuteIntegration(execute("echo"))
    error = await refusal(stub.ExecuteIntegration(execute("echo")))
    assert error.reason == "AUTHORIZER_UNAVAILABLE"
    async with certificate_service(ca, port) as (service, _):
        service.reasons[alice.der] = decision_pb2.DECISION_REASON_ALLOWED
        while True:
            try:
                await stub.ExecuteIntegration(execute("echo"))
                break
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.05)
    await channel.close()
    stop.request()
    await serving


async def test_can_be_stopped_while_it_waits(tmp_path: Path) -> None:
    ca = OutsideCA("Test CA")
    async with certificate_service(ca) as (_, port):
        pass
    stop = StopRequests()
    serving = asyncio.create_task(serve(execution_settings(tmp_path, ca, port), stop))
    await asyncio.sleep(0.1)
    stop.request()
    await serving
    assert not (tmp_path / "ready.json").exists()
