"""Turns to read a request are shared out evenly among connections."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from handclasp.serving.reading_turns import ReadingTurns


class Evictions:
    """A clock, and the calls that were told to give up their turn."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[Any] = []

    def clock(self) -> float:
        return self.now


def turns(evictions: Evictions, *, total: int, per_connection: int) -> ReadingTurns:
    return ReadingTurns(total=total, per_connection=per_connection, evict=evictions.calls.append, clock=evictions.clock)


def call(name: str) -> Any:
    return name


async def waiting(shared: ReadingTurns, name: str, connection: str) -> asyncio.Task[None]:
    task = asyncio.create_task(shared.take(call(name), connection))
    await asyncio.sleep(0)
    return task


async def test_a_connection_waits_for_its_own_calls_and_no_other_does() -> None:
    shared = turns(Evictions(), total=10, per_connection=2)
    assert shared.take_at_once(call("a1"), "a")
    assert shared.take_at_once(call("a2"), "a")
    assert not shared.take_at_once(call("a3"), "a")
    assert shared.take_at_once(call("b1"), "b")
    third, fourth = await waiting(shared, "a3", "a"), await waiting(shared, "a4", "a")
    shared.give_back(call("a1"), "a")
    await asyncio.sleep(0)
    assert (third.done(), fourth.done()) == (True, False)
    shared.give_back(call("a2"), "a")
    await asyncio.wait_for(fourth, 1)
    assert shared.taken == 3


async def test_the_connection_with_the_most_turns_gives_one_up() -> None:
    evictions = Evictions()
    shared = turns(evictions, total=3, per_connection=2)
    for name, connection in (("a1", "a"), ("a2", "a"), ("b1", "b")):
        assert shared.take_at_once(call(name), connection)
    newcomer = await waiting(shared, "c1", "c")
    assert evictions.calls == ["a1"]
    shared.give_back(call("a1"), "a")
    await asyncio.wait_for(newcomer, 1)
    assert shared.taken == 3


async def test_of_connections_with_one_turn_each_none_gives_it_up_before_its_time() -> None:
    evictions = Evictions()
    shared = turns(evictions, total=2, per_connection=2)
    for connection in ("a", "b"):
        assert shared.take_at_once(call(connection), connection)
        evictions.now += 0.01
    newcomer = await waiting(shared, "c", "c")
    assert not evictions.calls
    evictions.now += 1
    shared.make_room()
    assert evictions.calls == ["a"]
    shared.make_room()
    assert evictions.calls == ["a"], "one is enough for one that waits"
    shared.give_back(call("a"), "a")
    await asyncio.wait_for(newcomer, 1)


async def test_a_connection_that_has_no_turn_comes_before_those_that_want_more() -> None:
    evictions = Evictions()
    shared = turns(evictions, total=2, per_connection=3)
    for connection in ("a", "b"):
        assert shared.take_at_once(call(connection), connection)
    more = [await waiting(shared, f"a{number}", "a") for number in range(2)]
    newcomer = await waiting(shared, "c", "c")
    shared.give_back(call("b"), "b")
    await asyncio.wait_for(newcomer, 1)
    assert not any(task.done() for task in more)
    for task in more:
        task.cancel()


async def test_calls_that_leave_while_they_wait_hold_nothing() -> None:
    evictions = Evictions()
    shared = turns(evictions, total=2, per_connection=1)
    assert shared.take_at_once(call("a1"), "a")
    assert shared.take_at_once(call("b1"), "b")
    gone = [await waiting(shared, "a2", "a"), await waiting(shared, "c1", "c"), await waiting(shared, "c2", "c")]
    for task in gone:
        task.cancel()
    await asyncio.gather(*gone, return_exceptions=True)
    shared.give_back(call("a1"), "a")
    shared.give_back(call("b1"), "b")
    assert shared.taken == 0
    for name, connection in (("a3", "a"), ("c3", "c")):
        assert shared.take_at_once(call(name), connection)


async def test_a_call_that_leaves_in_the_moment_in_which_it_gets_its_turn_gives_it_back() -> None:
    shared = turns(Evictions(), total=1, per_connection=1)
    assert shared.take_at_once(call("a1"), "a")
    second = await waiting(shared, "a2", "a")
    shared.give_back(call("a1"), "a")
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    assert shared.taken == 0
    assert shared.take_at_once(call("a3"), "a")


async def test_whatever_comes_and_goes_no_turn_is_lost() -> None:
    shared = turns(Evictions(), total=4, per_connection=2)

    async def use(number: int) -> None:
        connection = str(number % 5)
        if not shared.take_at_once(call(str(number)), connection):
            await shared.take(call(str(number)), connection)
        assert shared.taken <= 4
        try:
            await asyncio.sleep(0.001 * (number % 3))
        finally:
            shared.give_back(call(str(number)), connection)

    tasks = [asyncio.create_task(use(number)) for number in range(300)]
    await asyncio.sleep(0.01)
    for task in tasks[::7]:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(result) for result in results} <= {type(None), asyncio.CancelledError}
    assert shared.taken == 0
    assert shared.take_at_once(call("last"), "0")
