"""How much of a call in progress is remembered, and how long it goes on if it cannot be asked about."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from handclasp.errors import Reason, Unavailable
from handclasp.relying_party import EXECUTE_INTEGRATIONS, Allowed
from handclasp.relying_party.calls import CallsInProgress, Permit
from handclasp.relying_party.counters import Counters
from handclasp.relying_party.decisions import Yes
from handclasp.relying_party.knowledge import Change, Effect, Knowledge, Position
from handclasp.serving.call import Call
from handclasp.serving.peer import Peer
from tests.unit.relying_party.test_knowledge import Clock

YES = Yes(Allowed("users/alice", "certificates/a", "decisions/1"), 10, ("users/alice",), None)


def permit(number: int) -> Permit:
    return Permit(YES, EXECUTE_INTEGRATIONS, f"orders/{number}")


async def test_a_stream_that_asks_on_and_on_takes_up_only_so_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("handclasp.relying_party.calls.MAX_PERMITS", 3)
    clock = Clock()
    asked: list[str] = []

    async def ask(_peer: Peer, _permission: int, resource: str) -> Yes:
        asked.append(resource)
        return YES

    calls = CallsInProgress(Knowledge(clock), clock, clock, Counters(), ask, grace=10)
    context: Any = None
    call = Call("/shop.v1.Orders/Chat", Peer("", b"leaf", None), context)
    for number in range(10):
        calls.permit(call, permit(number % 5))
    calls.was_reset()
    while len(asked) < 3:  # noqa: ASYNC110 the tasks that ask are the only other ones
        await asyncio.sleep(0)
    await calls.close()
    assert sorted(asked) == ["orders/2", "orders/3", "orders/4"]


async def nobody_asks(_peer: Peer, _permission: int, _resource: str) -> Yes:
    raise AssertionError


async def test_a_call_that_has_ended_is_not_taken_in_again() -> None:
    clock = Clock()
    calls = CallsInProgress(Knowledge(clock), clock, clock, Counters(), nobody_asks, grace=10)
    context: Any = None
    call = Call("/shop.v1.Orders/Get", Peer("", b"leaf", None), context)
    calls.permit(call, permit(1))
    assert len(calls) == 1
    call.finish()
    assert len(calls) == 0
    calls.permit(call, permit(1))
    assert len(calls) == 0


async def test_while_nothing_is_answered_calls_do_not_wait_for_their_turn_beyond_the_grace() -> None:
    clock = Clock()
    asked = 0

    async def ask(_peer: Peer, _permission: int, _resource: str) -> Yes:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0)  # The others are in line by then.
        clock.now += 11
        raise Unavailable(Reason.AUTHORIZER_UNAVAILABLE, "nobody answers")

    calls = CallsInProgress(Knowledge(clock), clock, clock, Counters(), ask, grace=10, asked_at_once=1)
    context: Any = None
    for _ in range(3):
        calls.permit(Call("/shop.v1.Orders/Chat", Peer("", b"leaf", None), context), permit(1))
    calls.was_reset()
    while len(calls):  # noqa: ASYNC110 the tasks that ask are the only other ones
        await asyncio.sleep(0)
    await calls.close()
    assert asked == 1


async def test_a_process_that_was_held_up_gives_calls_the_grace_from_then_on() -> None:
    clock = Clock()
    calls = CallsInProgress(Knowledge(clock), clock, clock, Counters(), nobody_asks, grace=10)
    context: Any = None
    call = Call("/shop.v1.Orders/Wait", Peer("", b"leaf", None), context)
    calls.permit(call, permit(1))
    calls.look()
    clock.now += 60  # without a look
    calls.look()
    assert len(calls) == 1
    assert not calls.is_open(call)
    for _ in range(100):
        clock.now += 0.2
        calls.look()
    assert isinstance(call.withdrawn, Unavailable)
    await calls.close()


async def test_a_yes_ahead_of_what_is_applied_does_not_outlast_its_history() -> None:
    """A standby that was behind takes over: the numbers of the lost history come again, with other changes."""
    clock = Clock()
    knowledge = Knowledge(clock)
    knowledge.reset(Position(1, 1))
    calls = CallsInProgress(knowledge, clock, clock, Counters(), nobody_asks, grace=10)
    context: Any = None
    call = Call("/shop.v1.Orders/Wait", Peer("", b"leaf", None), context)
    calls.permit(call, Permit(replace(YES, revision=3), EXECUTE_INTEGRATIONS, "orders/1"))
    changes = [Change("users/alice", frozenset({Effect.WITHDRAWN}))]
    knowledge.begin_stream()
    knowledge.apply(Position(2, 7), changes)
    calls.changed(Position(2, 7), changes)
    knowledge.pong(knowledge.ping(), 2, 5.0)
    assert knowledge.lease_runs()
    assert not calls.is_open(call)
    assert call.withdrawn is not None
    await calls.close()
