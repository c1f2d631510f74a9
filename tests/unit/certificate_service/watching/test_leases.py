"""Leases: what the barrier waits for, by a clock that the test sets."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from handclasp.certificate_service.watching.leases import CLOCK_RATE_BOUND, Holder, Leases, Settled, waited
from handclasp.errors import ResourceExhausted
from tests.unit.certificate_service.watching.clock import SettableLeaseClock

LEASE = 2.0


@pytest.fixture
def clock() -> SettableLeaseClock:
    return SettableLeaseClock()


@pytest.fixture
def leases(clock: SettableLeaseClock) -> Leases:
    return Leases(clock, maximum=3)


def holder(leases: Leases, clock: SettableLeaseClock, name: str = "p", *, acknowledged: int = 0) -> Holder:
    entered = leases.enter(("rp", name))
    leases.grant(entered, clock(), LEASE)
    leases.acknowledge(entered, acknowledged)
    return entered


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@contextmanager
def waiting(leases: Leases, revision: int) -> Iterator[asyncio.Task[Settled]]:
    task = asyncio.create_task(leases.settle(revision))
    try:
        yield task
    finally:
        task.cancel()


async def test_nobody_to_wait_for(leases: Leases) -> None:
    assert await leases.settle(1) == Settled(0, 0)


async def test_whoever_has_acknowledged_is_not_waited_for(leases: Leases, clock: SettableLeaseClock) -> None:
    holder(leases, clock, acknowledged=5)
    assert await leases.settle(5) == Settled(acknowledged=1)


async def test_it_waits_for_everybody(leases: Leases, clock: SettableLeaseClock) -> None:
    one, other = holder(leases, clock, "one"), holder(leases, clock, "other")
    with waiting(leases, 3) as settling:
        leases.acknowledge(one, 3)
        await turns()
        leases.acknowledge(other, 2)
        await turns()
        assert not settling.done()
        leases.acknowledge(other, 7)
        assert await settling == Settled(acknowledged=2)


async def test_the_service_waits_longer_than_the_clocks_can_differ(clock: SettableLeaseClock) -> None:
    """Rule 1, at its edge: a relying party's clock may be slower by the bound."""
    leases = Leases(clock, maximum=3)
    entered = leases.enter(("rp", "p"))
    lease = 0.2
    leases.grant(entered, clock(), lease)
    clock.now += lease * (1 + CLOCK_RATE_BOUND) - 0.0005
    with waiting(leases, 1) as settling:
        await turns()
        assert not settling.done()
        clock.now += 0.0006
        assert await settling == Settled(ended=1)


def test_streams_are_limited_too(leases: Leases) -> None:
    """Each takes one of the calls that may run at once, whoever's process it is."""
    entered = [leases.enter(("rp", "p")) for _ in range(3)]
    for key in (("rp", "p"), ("rp", "another")):
        with pytest.raises(ResourceExhausted):
            leases.enter(key)
    leases.leave(entered[0])
    assert leases.enter(("rp", "another")).streams == 1


def test_one_user_leaves_room_for_others(clock: SettableLeaseClock) -> None:
    leases = Leases(clock, maximum=10, maximum_per_user=3)
    greedy = [leases.enter(("greedy", f"p{number}")) for number in range(3)]
    for process in ("p0", "another"):
        with pytest.raises(ResourceExhausted) as caught:
            leases.enter(("greedy", process))
        assert caught.value.retry_after is not None
    for number in range(3):
        leases.enter(("honest", f"p{number}"))
    # One that has left keeps its place until its lease is over: it may still act on it.
    leases.grant(greedy[0], clock(), LEASE)
    leases.leave(greedy[0])
    with pytest.raises(ResourceExhausted):
        leases.enter(("greedy", "another"))
    clock.now += waited(LEASE) + 0.001
    leases.enter(("greedy", "another"))


async def test_later_renewals_do_not_prolong_it(leases: Leases, clock: SettableLeaseClock) -> None:
    """Rule 10."""
    entered = holder(leases, clock)
    clock.now += LEASE
    with waiting(leases, 1) as settling:
        await turns()
        leases.grant(entered, clock(), LEASE)
        clock.now += LEASE / 10
        assert await settling == Settled(ended=1)
    # The next one waits for the renewal.
    with waiting(leases, 2) as settling:
        await turns()
        assert not settling.done()


async def test_a_lease_outlives_its_stream(leases: Leases, clock: SettableLeaseClock) -> None:
    """Rule 11."""
    leases.leave(holder(leases, clock))
    with waiting(leases, 1) as settling:
        await turns()
        assert not settling.done()


async def test_records_are_by_user_and_process(leases: Leases, clock: SettableLeaseClock) -> None:
    """Rule 12."""
    first = holder(leases, clock, "p")
    assert leases.enter(("rp", "p")) is first
    assert leases.enter(("other", "p")) is not first


async def test_a_wait_that_is_given_up_leaves_nothing_behind(leases: Leases, clock: SettableLeaseClock) -> None:
    entered = holder(leases, clock)
    with waiting(leases, 1) as settling:
        await turns()
        assert len(entered.awaited) == 1
    await asyncio.gather(settling, return_exceptions=True)
    assert entered.awaited == []


async def test_a_wait_that_ends_by_the_clock_leaves_nothing_behind(leases: Leases, clock: SettableLeaseClock) -> None:
    entered = holder(leases, clock)
    clock.now += LEASE
    with waiting(leases, 1) as settling:
        await turns()
        clock.now += LEASE
        await settling
    assert entered.awaited == []


async def test_too_many_are_refused_and_those_who_left_make_room(leases: Leases, clock: SettableLeaseClock) -> None:
    holders = [holder(leases, clock, name) for name in "abc"]
    with pytest.raises(ResourceExhausted):
        leases.enter(("rp", "d"))
    leases.leave(holders[0])
    with pytest.raises(ResourceExhausted):
        leases.enter(("rp", "d"))
    clock.now += 2 * LEASE
    leases.enter(("rp", "d"))
