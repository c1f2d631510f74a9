"""An answer is a use of what a call is allowed by: it waits for a lease, and for what has changed.

docs/revocation.md has the rules; tests/e2e/test_blocked_loop.py has real processes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from handclasp.errors import HandclaspError, PermissionDenied, Unavailable
from handclasp.errors.status import from_rpc_error
from handclasp.relying_party import Options
from tests.rpc.execution_harness import PROFILE, USER, until
from tests.rpc.party_lab import SERVICE, Shop, running_shop
from tests.rpc.scripted_watch import ALTERED, GIVEN, WITHDRAWN

PAUSE = 0.3
"""Seconds in which an answer would have come."""


class Clock:
    """The relying party's lease clock. A jump is what a blocked event loop, or a frozen process, finds afterwards."""

    ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


@pytest.fixture
async def clock() -> Clock:
    return Clock()


@pytest.fixture
async def shop(tmp_path: Path, clock: Clock) -> AsyncIterator[Shop]:
    async with running_shop(tmp_path, options=Options(lease_clock=clock, lease_grace=8.0)) as running:
        yield running


def lose_lease(shop: Shop, clock: Clock) -> None:
    """In one step: no other task sees the lease run out."""
    shop.watches.answers = lambda _stream, _ping: False
    clock.ahead += 4.0
    assert not shop.party.ready


def grant_leases(shop: Shop) -> None:
    shop.watches.answers = None


async def ended_with(call: Any) -> HandclaspError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asyncio.wait_for(call, 20)
    return from_rpc_error(caught.value)


async def waiting(shop: Shop, clock: Clock) -> Any:
    """A call whose handler has ended, without a lease."""
    call = shop.unary("Wait")
    task = asyncio.ensure_future(call)
    await until(lambda: shop.orders.begun == 1)
    lose_lease(shop, clock)
    shop.orders.proceed.set()
    await until(lambda: shop.orders.ended == 1)
    await asyncio.sleep(PAUSE)
    assert not task.done()
    return task


async def test_an_answer_waits_for_a_lease(shop: Shop, clock: Clock) -> None:
    call = await waiting(shop, clock)
    grant_leases(shop)
    assert await asyncio.wait_for(call, 20) == b"done"


async def test_what_was_withdrawn_meanwhile_is_answered_with_that(shop: Shop, clock: Clock) -> None:
    call = await waiting(shop, clock)
    await shop.watches.change((USER, WITHDRAWN))
    grant_leases(shop)
    error = await ended_with(call)
    assert (type(error), error.reason) == (PermissionDenied, "AUTHORIZATION_WITHDRAWN")


async def test_what_was_altered_is_asked_about_before_the_answer(shop: Shop, clock: Clock) -> None:
    call = await waiting(shop, clock)
    grant_leases(shop)
    await shop.service.grant(shop.alice.der)
    error = await ended_with(call)
    assert (type(error), error.reason) == (PermissionDenied, "AUTHORIZATION_WITHDRAWN")


async def test_what_was_altered_and_is_still_allowed_is_answered(shop: Shop, clock: Clock) -> None:
    call = await waiting(shop, clock)
    grant_leases(shop)
    await shop.watches.change((PROFILE, ALTERED), (USER, GIVEN))
    assert await asyncio.wait_for(call, 20) == b"done"


async def test_while_it_is_asked_about_anew_nothing_is_answered(shop: Shop) -> None:
    """A lease runs all the time."""
    call = asyncio.ensure_future(shop.unary("Wait"))
    await until(lambda: shop.orders.begun == 1)
    shop.service.gate = asyncio.Event()
    shop.watches.push((PROFILE, ALTERED))
    await until(lambda: len(shop.service.checked) > 1)
    shop.orders.proceed.set()
    await asyncio.sleep(PAUSE)
    assert not call.done()
    shop.service.gate.set()
    assert await asyncio.wait_for(call, 20) == b"done"


async def test_without_a_lease_it_ends_with_the_grace(shop: Shop, clock: Clock) -> None:
    call = await waiting(shop, clock)
    clock.ahead += 8.0
    error = await ended_with(call)
    assert (type(error), error.reason) == (Unavailable, "AUTHORIZER_UNAVAILABLE")


@pytest.mark.parametrize("withdrawn", [False, True])
@pytest.mark.parametrize("method", ["Count", "Flood"])
async def test_so_with_each_message_of_a_stream(shop: Shop, clock: Clock, method: str, *, withdrawn: bool) -> None:
    call = shop.stream(method)
    arrived: list[float] = []
    ended: list[HandclaspError] = []

    async def read_on() -> None:
        try:
            while await call.read() is not grpc.aio.EOF:
                arrived.append(time.monotonic())
        except grpc.aio.AioRpcError as error:
            ended.append(from_rpc_error(error))

    reading = asyncio.create_task(read_on())
    await until(lambda: len(arrived) > 3)
    lose_lease(shop, clock)
    await asyncio.sleep(PAUSE)  # what was handed to gRPC before is on its way
    seen = len(arrived)
    await asyncio.sleep(PAUSE)
    assert len(arrived) == seen
    if withdrawn:
        await shop.watches.change((USER, WITHDRAWN))
        await asyncio.wait_for(reading, 20)
        assert len(arrived) == seen
        assert [error.reason for error in ended] == ["AUTHORIZATION_WITHDRAWN"]
    else:
        grant_leases(shop)
        await until(lambda: len(arrived) > seen + 3)
        reading.cancel()
        call.cancel()


async def test_so_where_requests_are_a_stream_too(shop: Shop, clock: Clock) -> None:
    begin: Any = shop.channel().stream_stream(f"/{SERVICE}/Chat")
    call = begin(timeout=20)
    await call.write(b"first")
    assert await call.read() == b"first"
    lose_lease(shop, clock)
    await call.write(b"second")
    answer = asyncio.ensure_future(call.read())
    await asyncio.sleep(PAUSE)
    assert not answer.done()
    grant_leases(shop)
    assert await asyncio.wait_for(answer, 20) == b"second"
    call.cancel()


async def test_a_list_that_was_filtered_is_answered_though_its_user_was_altered(shop: Shop, clock: Clock) -> None:
    """It was right when it was made; see rule 8b."""
    lose_lease(shop, clock)
    grant_leases(shop)
    await shop.watches.change((USER, ALTERED))
    call: Any = shop.unary("Filter", b"orders/1,orders/2")
    assert await asyncio.wait_for(call, 20) == b"orders/1,orders/2"
