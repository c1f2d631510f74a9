"""Calls in progress end when what they were allowed by is taken away. docs/revocation.md has the rules."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog

from handclasp.authorization.v1 import authorization_service_pb2 as messages
from handclasp.authorization.v1 import decision_pb2
from handclasp.errors import HandclaspError, PermissionDenied, Unavailable
from handclasp.relying_party import EXECUTE_INTEGRATIONS, Options
from handclasp.serving.interceptor import CallInterceptor, current_peer
from handclasp.serving.peer import Peer
from handclasp.transport.server import ServerLimits, server_options
from tests.rpc.execution_harness import ALLOWED, PROFILE, USER, certificate_name, until
from tests.rpc.party_lab import SERVICE, Shop, refusal, running_shop, stream_refusal
from tests.rpc.scripted_watch import ALTERED, CREDENTIALS, GIVEN, WITHDRAWN, Response, ScriptedWatches

Begin = Callable[[Shop], Any]


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    async with running_shop(tmp_path) as running:
        yield running


async def endless(end: asyncio.Event) -> AsyncIterator[bytes]:
    yield b"a"
    await end.wait()


def unary(shop: Shop) -> Any:
    return refusal(shop.unary("Wait"))


def streaming(shop: Shop) -> Any:
    return stream_refusal(shop.stream("Count"))


def collecting(shop: Shop) -> Any:
    call: Any = shop.channel().stream_unary(f"/{SERVICE}/Collect")
    return refusal(call(endless(asyncio.Event()), timeout=20))


def chatting(shop: Shop) -> Any:
    call: Any = shop.channel().stream_stream(f"/{SERVICE}/Chat")
    return stream_refusal(call(endless(asyncio.Event()), timeout=20))


async def slow_reader(shop: Shop) -> HandclaspError:
    """Reads once, so that the handler is blocked in a write; goes on reading only after the call was ended."""
    call = shop.stream("Flood")
    await call.read()
    await until(lambda: shop.orders.ended == 1)

    async def read_on() -> None:
        while await call.read() is not grpc.aio.EOF:
            pass

    return await refusal(read_on())


KINDS: list[Begin] = [unary, streaming, collecting, chatting, slow_reader]


async def begun(shop: Shop, begin: Begin) -> asyncio.Task[HandclaspError]:
    """A call that is in its handler."""
    before = shop.orders.begun
    task: asyncio.Task[HandclaspError] = asyncio.ensure_future(begin(shop))
    await until(lambda: shop.orders.begun > before)
    await asyncio.sleep(0.1)
    assert not task.done()
    return task


async def assert_taken_away(shop: Shop, task: asyncio.Task[HandclaspError]) -> None:
    error = await task
    assert (type(error), error.reason) == (PermissionDenied, "AUTHORIZATION_WITHDRAWN")
    assert "taken away while the call ran" in error.message
    await until(lambda: shop.orders.ended == shop.orders.begun)
    assert shop.party.calls_in_progress == 0


@pytest.mark.parametrize("begin", KINDS)
async def test_a_call_of_each_kind_ends_with_its_certificate(shop: Shop, begin: Begin) -> None:
    task = await begun(shop, begin)
    since = time.monotonic()
    await shop.service.take_away(shop.alice.der)
    await assert_taken_away(shop, task)
    assert time.monotonic() - since < 10  # long before its deadline
    assert shop.party.counters.aborted == 1


@pytest.mark.parametrize("name", [USER, PROFILE])
async def test_it_ends_with_anything_that_it_rests_on(shop: Shop, name: str) -> None:
    task = await begun(shop, unary)
    await shop.watches.change((name, WITHDRAWN))
    await assert_taken_away(shop, task)


async def test_others_go_on(shop: Shop) -> None:
    task = await begun(shop, unary)
    await shop.watches.change(("users/bob", WITHDRAWN), (USER, GIVEN))
    await asyncio.sleep(0.3)
    assert not task.done()
    await shop.service.take_away(shop.alice.der)
    await assert_taken_away(shop, task)


async def test_a_hold_ends_calls_even_if_the_reinstatement_is_joined_to_it(shop: Shop) -> None:
    task = await begun(shop, unary)
    shop.watches.revision += 2
    change = messages.Change(name=certificate_name(shop.alice.der), effects=[WITHDRAWN, GIVEN])
    shop.watches.stream.send(shop.watches.as_message(shop.watches.revision, [change]))
    await assert_taken_away(shop, task)


async def test_a_change_that_was_taken_into_account_ends_nothing(shop: Shop) -> None:
    # Decided at a revision whose changes have not come yet: it knows of them.
    shop.service.decided_at = 11
    task = await begun(shop, unary)
    await shop.watches.change((USER, WITHDRAWN))
    await asyncio.sleep(0.3)
    assert not task.done()
    await shop.watches.change((USER, WITHDRAWN))
    await assert_taken_away(shop, task)


async def test_a_new_password_ends_calls_that_sent_one(shop: Shop) -> None:
    without = await begun(shop, unary)
    header = "Basic " + base64.b64encode(b"alice:secret").decode()
    call: Any = shop.channel().unary_unary(f"/{SERVICE}/Wait")
    sent = asyncio.ensure_future(refusal(call(b"x", timeout=20, metadata=(("authorization", header),))))
    await until(lambda: shop.orders.begun == 2)
    await shop.watches.change((USER, CREDENTIALS))
    assert (await sent).reason == "AUTHORIZATION_WITHDRAWN"
    await asyncio.sleep(0.2)
    assert not without.done()
    await shop.service.take_away(shop.alice.der)
    await without


@pytest.mark.parametrize("begin", KINDS)
async def test_what_was_altered_is_asked_about_anew(shop: Shop, begin: Begin) -> None:
    task = await begun(shop, begin)
    asked = shop.asked
    await shop.watches.change((PROFILE, ALTERED))
    await until(lambda: shop.asked == asked + 1)
    await asyncio.sleep(0.2)
    assert not task.done()
    await shop.service.grant(shop.alice.der, "orders/other")
    await assert_taken_away(shop, task)


async def test_what_cannot_be_asked_about_goes_on_for_the_grace(tmp_path: Path) -> None:
    async with running_shop(tmp_path, options=Options(lease_grace=1.0)) as shop:
        task = await begun(shop, unary)
        shop.service.failure = grpc.StatusCode.UNAVAILABLE
        since = time.monotonic()
        await shop.watches.change((PROFILE, ALTERED))
        error = await task
        assert (type(error), error.reason) == (Unavailable, "AUTHORIZER_UNAVAILABLE")
        assert time.monotonic() - since >= 0.9


async def test_after_a_reset_every_call_is_asked_about(shop: Shop) -> None:
    tasks = [await begun(shop, unary), await begun(shop, streaming)]
    shop.service.granted[shop.alice.der] = {"orders/wait"}
    shop.watches.revision = 50
    shop.watches.stream.send(Response(reset=Response.Reset(position=shop.watches.position())))
    error = await tasks[1]
    assert error.reason == "AUTHORIZATION_WITHDRAWN"
    assert not tasks[0].done()
    shop.orders.proceed.set()
    with pytest.raises(AssertionError, match="did not end with an error"):
        await tasks[0]


async def test_without_a_lease_calls_go_on_for_the_grace_and_no_longer(tmp_path: Path) -> None:
    watches = ScriptedWatches(lease=0.5, ping_interval=0.05)
    async with running_shop(tmp_path, watches=watches, options=Options(lease_grace=1.0)) as shop:
        task = await begun(shop, unary)
        watches.answers = lambda *_: False
        await until(lambda: not shop.party.ready)
        assert not task.done()
        since = time.monotonic()
        error = await task
        assert (type(error), error.reason) == (Unavailable, "AUTHORIZER_UNAVAILABLE")
        assert time.monotonic() - since > 0.5


async def test_a_lease_that_comes_back_in_time_saves_calls(tmp_path: Path) -> None:
    watches = ScriptedWatches(lease=0.5, ping_interval=0.05)
    async with running_shop(tmp_path, watches=watches) as shop:
        task = await begun(shop, unary)
        watches.answers = lambda *_: False
        await until(lambda: not shop.party.ready)
        watches.answers = None
        await until(lambda: shop.party.ready)
        await asyncio.sleep(0.5)
        assert not task.done()
        task.cancel()


@pytest.mark.parametrize("begin", [unary, streaming])
async def test_a_call_ends_when_its_certificate_expires(shop: Shop, begin: Begin) -> None:
    shop.service.lifetime = timedelta(seconds=1.2)
    task = await begun(shop, begin)
    await assert_taken_away(shop, task)


async def test_calls_that_end_by_themselves_are_forgotten(shop: Shop) -> None:
    task = await begun(shop, unary)
    assert shop.party.calls_in_progress == 1
    shop.orders.proceed.set()
    with pytest.raises(AssertionError, match="did not end with an error"):
        await task
    call = shop.stream("Count")
    await call.read()
    assert shop.party.calls_in_progress == 1
    call.cancel()
    await until(lambda: shop.party.calls_in_progress == 0)
    assert (shop.orders.begun, shop.orders.ended) == (2, 2)


async def test_many_calls_end_together(shop: Shop) -> None:
    tasks = [asyncio.ensure_future(unary(shop)) for _ in range(50)]
    await until(lambda: shop.orders.begun == 50)
    assert shop.party.calls_in_progress == 50
    await shop.service.take_away(shop.alice.der, decision_pb2.DECISION_REASON_REVOKED)
    errors = await asyncio.gather(*tasks)
    assert {error.reason for error in errors} == {"AUTHORIZATION_WITHDRAWN"}
    assert shop.party.counters.aborted == 50


async def admit_anybody(_method: str, _peer: Peer) -> None:
    """The handlers see to it."""


@pytest.mark.parametrize("unnoticed", [False, True])
@pytest.mark.parametrize("resources", [["orders/1", "orders/2"], ["orders/2"], ["orders/1"]], ids=str)
async def test_a_call_that_filtered_a_list_ends_with_its_certificate_only(
    shop: Shop, resources: list[str], unnoticed: bool
) -> None:
    shop.service.granted[shop.alice.der] = {"orders/1"}
    begun_handlers = asyncio.Event()

    async def filter_and_wait(_request: bytes, _context: Any) -> bytes:
        answers = await shop.party.authorizer.allowed(current_peer(), EXECUTE_INTEGRATIONS, resources)
        assert answers == [resource == "orders/1" for resource in resources]
        begun_handlers.set()
        await asyncio.sleep(60)
        return b""

    server = grpc.aio.server(interceptors=[CallInterceptor(admit_anybody)], options=server_options(ServerLimits()))
    handlers: Any = {"Filter": grpc.unary_unary_rpc_method_handler(filter_and_wait)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("shop.v1.Lists", handlers),))
    shop.port = server.add_secure_port("127.0.0.1:0", shop.party.server_credentials())
    await server.start()
    try:
        call: Any = shop.channel().unary_unary("/shop.v1.Lists/Filter")
        task = asyncio.ensure_future(refusal(call(b"", timeout=20)))
        await begun_handlers.wait()
        await shop.watches.change((PROFILE, ALTERED))
        await asyncio.sleep(0.2)
        assert not task.done()
        asked = shop.asked
        shop.watches.revision = 50
        shop.watches.stream.send(Response(reset=Response.Reset(position=shop.watches.position())))
        await until(lambda: shop.asked > asked)
        await asyncio.sleep(0.2)
        assert not task.done()
        if unnoticed:
            # While it was away from the watch; the reset is all that says so.
            shop.service.reasons[shop.alice.der] = decision_pb2.DECISION_REASON_REVOKED
            shop.watches.revision = 60
            shop.watches.stream.send(Response(reset=Response.Reset(position=shop.watches.position())))
        else:
            await shop.service.take_away(shop.alice.der)
        assert (await task).reason == "AUTHORIZATION_WITHDRAWN"
    finally:
        await server.stop(None)


async def test_the_log_says_which_call_was_ended_and_why(shop: Shop) -> None:
    with structlog.testing.capture_logs() as lines:
        task = await begun(shop, unary)
        await shop.service.take_away(shop.alice.der)
        await assert_taken_away(shop, task)
        shop.service.reasons[shop.alice.der] = ALLOWED
        task = await begun(shop, unary)
        await shop.service.grant(shop.alice.der, "orders/other")
        refused = await task
        await until(lambda: shop.party.counters.aborted == 2)
    withdrawn, altered = (line for line in lines if line["event"] == "call_aborted")
    assert (withdrawn["method"], withdrawn["user"]) == (f"/{SERVICE}/Wait", USER)
    assert "withdrawn" in withdrawn["why"]
    assert "asked about anew" in altered["why"]
    assert altered["decision"] == refused.metadata["decision"]
