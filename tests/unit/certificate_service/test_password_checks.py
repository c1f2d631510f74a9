"""Passwords that are checked at the same time, and while another one is set."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from handclasp.certificate_service.passwords.checking import Checked, Outcome
from handclasp.certificate_service.passwords.hashing import Argon2
from handclasp.certificate_service.passwords.throttle import ThrottleLimits
from handclasp.errors import Reason, Unavailable
from tests.support.passwords import make_checker

OLD = "correct horse battery staple"
NEW = "another horse battery staple"
ADDRESS = "192.0.2.1"
LIMITS = ThrottleLimits()


class HeldUp(Argon2):
    """Checks nothing until it is let go."""

    def __init__(self) -> None:
        super().__init__(concurrency=1)
        self.begun = asyncio.Event()
        self.go = asyncio.Event()
        self.checks = 0

    async def verify(self, password_hash: str | None, password: str) -> bool:
        self.checks += 1
        self.begun.set()
        await self.go.wait()
        return await super().verify(password_hash, password)


@pytest_asyncio.fixture
async def argon2() -> AsyncIterator[HeldUp]:
    held_up = HeldUp()
    yield held_up
    held_up.close()


async def test_whoever_asks_after_a_change_does_not_get_the_answer_of_before(argon2: HeldUp) -> None:
    stored = await argon2.hash(OLD)

    async def find_hash(_user_id: str) -> str:
        return stored

    passwords = make_checker(argon2, find_hash)
    before = [asyncio.create_task(passwords.check("alice", OLD, ADDRESS)) for _ in range(2)]
    await argon2.begun.wait()
    stored = await argon2.hash(NEW)
    after = [asyncio.create_task(passwords.check("alice", OLD, ADDRESS)) for _ in range(2)]
    await asyncio.sleep(0.05)
    argon2.go.set()
    assert [(await check).right for check in before] == [True, True]
    assert [(await check).right for check in after] == [False, False]
    assert argon2.checks == 2  # equal ones still share a check
    assert passwords.outcomes == {Outcome.RIGHT: 1, Outcome.WRONG: 1}
    assert passwords.under_way == 0


async def test_the_right_one_behind_many_guesses_is_one_of_them(argon2: HeldUp) -> None:
    """Also if the hash is read for it sooner than for those before it."""
    stored = await argon2.hash(OLD)
    reads = 0

    async def find_hash(_user_id: str) -> str:
        nonlocal reads
        reads += 1
        for _ in range(10 - reads):
            await asyncio.sleep(0)
        return stored

    passwords = make_checker(argon2, find_hash)
    guesses = [f"guess {number}" for number in range(LIMITS.free_attempts)]
    checks = [asyncio.create_task(passwords.check("alice", guess, ADDRESS)) for guess in [*guesses, OLD]]
    await argon2.begun.wait()
    argon2.go.set()
    outcomes = [await check for check in checks]
    assert [found.retry_time is None for found in outcomes] == [True] * LIMITS.free_attempts + [False]
    assert Counter(found.right for found in outcomes) == {False: LIMITS.free_attempts + 1}
    assert passwords.outcomes == {Outcome.WRONG: LIMITS.free_attempts, Outcome.THROTTLED: 1}


async def test_what_could_not_be_looked_at_is_no_guess(argon2: HeldUp) -> None:
    """Else whoever calls while the database is away would be locked out once it is back."""
    stored = await argon2.hash(OLD)
    away = True

    async def find_hash(_user_id: str) -> str:
        if away:
            raise Unavailable(Reason.STORAGE_UNAVAILABLE, "the database does not answer")
        return stored

    passwords = make_checker(argon2, find_hash)
    argon2.go.set()
    for _ in range(2 * LIMITS.free_attempts):
        with pytest.raises(Unavailable):
            await passwords.check("alice", OLD, ADDRESS)
    away = False
    assert await passwords.check("alice", OLD, ADDRESS) == Checked(right=True)
    assert passwords.outcomes == {Outcome.FAILED: 2 * LIMITS.free_attempts, Outcome.RIGHT: 1}
