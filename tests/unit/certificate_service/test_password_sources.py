"""What counts as one address when passwords are guessed."""

from __future__ import annotations

import asyncio

import pytest

from handclasp.certificate_service.passwords.checking import PasswordChecker
from handclasp.certificate_service.passwords.hashing import Argon2
from handclasp.certificate_service.passwords.queue import QueueLimits
from handclasp.certificate_service.passwords.throttle import ThrottleLimits
from handclasp.errors import ResourceExhausted
from tests.support.passwords import make_checker


async def _no_hash(user_id: str) -> str | None:
    del user_id
    return None


@pytest.fixture
def checker() -> PasswordChecker:
    """Lets one wrong password pass, and one at a time."""
    limits = ThrottleLimits(free_attempts=1)
    return make_checker(Argon2(), _no_hash, limits, QueueLimits(waiting_per_address=1))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:2", True),
        ("2001:db8::1", "2001:0db8:0:0:1::1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("192.0.2.1", "192.0.2.2", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("by execution-server", "by another", False),
    ],
)
async def test_a_subnet_is_slowed_down_as_one(checker: PasswordChecker, one: str, other: str, same: bool) -> None:
    assert (await checker.check("alice", "wrong", one)).retry_time is None
    assert ((await checker.check("alice", "wrong", other)).retry_time is not None) is same


async def test_a_subnet_has_one_place_to_wait_in(checker: PasswordChecker) -> None:
    first = asyncio.create_task(checker.check("alice", "wrong", "2001:db8::1"))
    await asyncio.sleep(0)
    with pytest.raises(ResourceExhausted):
        await checker.check("bob", "wrong", "2001:db8::2")
    assert not (await first).right
