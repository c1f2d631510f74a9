"""Whose password is hashed next."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from handclasp.certificate_service.passwords.checking import Outcome
from handclasp.certificate_service.passwords.guesses import Source
from handclasp.certificate_service.passwords.hashing import Argon2
from handclasp.certificate_service.passwords.queue import PasswordQueue, QueueLimits
from handclasp.certificate_service.passwords.throttle import ThrottleLimits
from handclasp.errors import Reason, ResourceExhausted
from tests.support.passwords import make_checker


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Hashing:
    """A queue whose turns last until they are ended one after the other."""

    def __init__(self, **limits: int) -> None:
        self.clock = Clock()
        self.queue = PasswordQueue(QueueLimits(**limits), self.clock)
        self.running: list[tuple[str, asyncio.Future[bool]]] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def send(self, address: str, number: int = 1, party: str = "") -> None:
        for _ in range(number):
            self.tasks.append(asyncio.create_task(self._hash(Source(address, party))))
        await settle()

    async def _hash(self, source: Source) -> None:
        async with self.queue.turn(source) as turn:
            outcome: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
            self.running.append((source.address, outcome))
            turn.right = await outcome

    async def end(self, *, right: bool = False) -> str:
        """Ends the turn that has been had for longest; returns whose it was."""
        address, outcome = self.running.pop(0)
        outcome.set_result(right)
        await settle()
        return address

    async def end_all(self) -> list[str]:
        ended = []
        while self.running:
            ended.append(await self.end())
        return ended

    def refused(self) -> int:
        """How many were told to come again, as they must be."""
        errors = [task.exception() for task in self.tasks if task.done() and not task.cancelled()]
        for error in filter(None, errors):
            assert isinstance(error, ResourceExhausted)
            assert error.reason == Reason.PASSWORD_CHECKS_BUSY
            assert error.retry_after is not None
        return sum(error is not None for error in errors)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_addresses_take_turns() -> None:
    hashing = Hashing(at_once=1)
    await hashing.send("a", 4)
    await hashing.send("b", 2)
    await hashing.send("c", 1)
    assert await hashing.end_all() == ["a", "b", "c", "a", "b", "a", "a"]


async def test_who_sends_right_ones_comes_before_who_sends_wrong_ones() -> None:
    hashing = Hashing(at_once=1)
    for number in range(60):
        await hashing.send(f"attacker-{number}", 15)
    for _ in range(60):
        await hashing.end()
    for _ in range(20):
        await hashing.send("alice")
        await hashing.end()  # whoever is being looked at just then
        assert await hashing.end(right=True) == "alice"


async def test_who_sent_a_right_one_before_comes_before_whoever_is_new() -> None:
    hashing = Hashing(at_once=1)
    await hashing.send("alice")
    await hashing.end(right=True)
    for number in range(60):
        await hashing.send(f"new-{number}")
    # Also if two come at once, and some are mistyped.
    await hashing.send("alice", 3)
    assert (await hashing.end_all())[1:4] == ["alice"] * 3


async def test_setting_passwords_counts_as_no_wrong_ones() -> None:
    argon2 = CountedArgon2()
    queue = PasswordQueue(QueueLimits(), Clock())
    for _ in range(3):
        async with queue.turn(Source("192.0.2.1")):
            await argon2.hash("a password")
    async with queue.turn(Source("192.0.2.1")) as turn:
        assert not turn.suspect
    argon2.close()


async def test_one_place_is_kept_free_of_those_who_send_wrong_ones() -> None:
    hashing = Hashing(at_once=2)
    await hashing.send("attacker", 10)
    await hashing.end()
    await hashing.end()
    assert [address for address, _ in hashing.running] == ["attacker"]
    await hashing.send("alice")
    assert [address for address, _ in hashing.running] == ["attacker", "alice"]


async def test_what_was_sent_is_forgotten_in_time() -> None:
    hashing = Hashing(at_once=1)
    await hashing.send("a", 5)
    await hashing.end_all()
    hashing.clock.now += 600
    await hashing.send("x")
    await hashing.send("a")
    await hashing.send("b")
    await hashing.send("c")
    assert (await hashing.end_all())[1] == "b", "a had its turn before b did"


async def test_a_relying_party_is_one_source_whatever_addresses_it_says() -> None:
    hashing = Hashing(at_once=1, waiting_per_address=2)
    await hashing.send("first")
    for number in range(20):
        await hashing.send(f"invented-{number}", party="party")
    await hashing.send("alice")
    assert hashing.refused() == 20 - 2 * 8
    order = await hashing.end_all()
    assert order.index("alice") <= 2


async def test_one_address_has_only_so_many_waiting() -> None:
    hashing = Hashing(at_once=1, waiting_per_address=3)
    await hashing.send("a", 10)
    assert hashing.refused() == 7
    await hashing.send("b", 3)
    assert hashing.refused() == 7
    assert sorted(await hashing.end_all()) == ["a"] * 3 + ["b"] * 3


async def test_if_all_places_are_taken_the_greediest_gives_one_up() -> None:
    hashing = Hashing(at_once=1, waiting=6)
    await hashing.send("x")
    await hashing.send("greedy", 5)
    await hashing.send("modest")
    await hashing.send("alice")
    assert hashing.refused() == 1
    assert (await hashing.end_all()).count("greedy") == 4
    # Nobody pushes out others who ask for no more.
    for number in range(10):
        await hashing.send(f"address-{number}")
    assert hashing.refused() == 1 + 10 - 7


async def test_who_has_left_has_no_turn() -> None:
    hashing = Hashing(at_once=1)
    await hashing.send("a")
    await hashing.send("gone", 5)
    await hashing.send("b")
    for task in hashing.tasks[1:6]:
        task.cancel()
    await settle()
    assert await hashing.end_all() == ["a", "b"]
    await hashing.send("c", 2)
    assert await hashing.end_all() == ["c", "c"]


async def test_who_leaves_in_the_moment_in_which_they_are_called_keeps_no_place() -> None:
    hashing = Hashing(at_once=1)
    await hashing.send("a")
    await hashing.send("gone")
    _, outcome = hashing.running.pop()
    outcome.set_result(False)
    await asyncio.sleep(0)
    hashing.tasks[1].cancel()
    await settle()
    hashing.running.clear()
    await hashing.send("b")
    assert await hashing.end_all() == ["b"]


class CountedArgon2(Argon2):
    """Counts, and takes its time."""

    checks = 0

    async def verify(self, password_hash: str | None, password: str) -> bool:  # noqa: ARG002
        self.checks += 1
        await asyncio.sleep(0.02)
        return password == "right"


async def no_hash(_user_id: str) -> str | None:
    return None


@pytest.mark.parametrize("equal", [True, False])
async def test_what_nobody_waits_for_any_more_is_neither_hashed_nor_counted(equal: bool) -> None:
    argon2 = CountedArgon2()
    passwords = make_checker(argon2, no_hash, ThrottleLimits(free_attempts=20), QueueLimits(at_once=1))
    first = asyncio.create_task(passwords.check("alice", "first", "192.0.2.1"))
    await settle()
    others = [
        asyncio.create_task(passwords.check("alice", "same" if equal else f"wrong {number}", "192.0.2.1"))
        for number in range(15)
    ]
    await settle()
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await first
    assert argon2.checks == 1
    # Nothing was learned by them, and none counts.
    assert await counted(lambda number: passwords.check("alice", f"more {number}", "192.0.2.1")) == 19
    assert passwords.outcomes[Outcome.DROPPED] == (1 if equal else 15)
    argon2.close()


async def test_an_equal_one_that_goes_on_waiting_keeps_it() -> None:
    argon2 = CountedArgon2()
    passwords = make_checker(argon2, no_hash, queue=QueueLimits(at_once=1))
    first = asyncio.create_task(passwords.check("alice", "first", "192.0.2.1"))
    await settle()
    leaving, staying = [asyncio.create_task(passwords.check("alice", "right", "192.0.2.1")) for _ in range(2)]
    await settle()
    leaving.cancel()
    assert (await staying).right is True
    await first
    assert argon2.checks == 2
    argon2.close()


async def counted(check: Callable[[int], Awaitable[object]]) -> int:
    """How many wrong ones are looked at before the first that is not."""
    for number in range(100):
        if getattr(await check(number), "retry_time") is not None:  # noqa: B009 - any outcome of a check
            return number
    raise AssertionError
