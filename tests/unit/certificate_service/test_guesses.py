"""Budgets for guesses over all addresses, and what they must not do: lock out the user."""

from __future__ import annotations

import itertools
from datetime import timedelta

from handclasp.certificate_service.passwords.guesses import Guess, Guesses, Refused, Source
from handclasp.certificate_service.passwords.throttle import ThrottleLimits

NOW = 1000.0
LIMITS = ThrottleLimits(
    free_attempts=3,
    guesses_per_user=10,
    guess_interval_per_user=timedelta(seconds=10),
    guesses_through_relying_party=4,
    guess_interval_through_relying_party=timedelta(seconds=60),
    guesses_per_relying_party=8,
    guess_interval_per_relying_party=timedelta(seconds=5),
)
PARTY = "party"

_numbers = itertools.count(1)


def elsewhere(party: str = "") -> Source:
    """An address that was never used before."""
    return Source(f"10.0.{next(_numbers)}.1", party)


def attempt(guesses: Guesses, user: str, source: Source, *, right: bool = False, now: float = NOW) -> bool:
    """Whether it is looked at."""
    begun = guesses.begin(user, source, now)
    if isinstance(begun, Refused):
        assert begun.not_before > now
        return False
    begun.end(now, right=right)
    return True


def looked_at(guesses: Guesses, number: int, user: str, party: str = "", now: float = NOW) -> int:
    """How many of so many wrong ones, each from an address of its own, are looked at."""
    return sum(attempt(guesses, user, elsewhere(party), now=now) for _ in range(number))


def test_addresses_that_a_relying_party_invents_gain_nothing() -> None:
    guesses = Guesses(LIMITS)
    assert looked_at(guesses, 300, "admin", PARTY) == 4
    assert not attempt(guesses, "admin", elsewhere(PARTY), right=True)


def test_and_lock_nobody_out_elsewhere() -> None:
    guesses = Guesses(LIMITS)
    home = Source("127.0.0.1")
    looked_at(guesses, 300, "admin", PARTY)
    for _ in range(20):
        attempt(guesses, "admin", Source(home.address, PARTY))
    assert attempt(guesses, "admin", home, right=True)
    assert attempt(guesses, "admin", Source(home.address, "another party"), right=True)
    # Nor the other way round.
    looked_at(guesses, 300, "bob")
    assert attempt(guesses, "bob", elsewhere(PARTY), right=True)


def test_one_more_is_looked_at_each_interval() -> None:
    guesses = Guesses(LIMITS)
    looked_at(guesses, 300, "admin", PARTY)
    begun = guesses.begin("admin", elsewhere(PARTY), NOW)
    assert isinstance(begun, Refused)
    assert begun.not_before == NOW + 60
    assert looked_at(guesses, 10, "admin", PARTY, now=NOW + 60) == 1
    assert looked_at(guesses, 10, "admin", PARTY, now=NOW + 60 + 3600) == 4


def test_a_relying_party_that_tries_many_users_is_slowed_down_too() -> None:
    guesses = Guesses(LIMITS)
    assert sum(looked_at(guesses, 1, f"user-{number}", PARTY) for number in range(100)) == 8
    assert looked_at(guesses, 1, "user-0", "another party") == 1


def test_those_being_checked_count() -> None:
    guesses = Guesses(LIMITS)
    begun = [guesses.begin("admin", elsewhere(PARTY), NOW) for _ in range(10)]
    assert sum(isinstance(one, Guess) for one in begun) == 4
    for one in begun:
        if isinstance(one, Guess):
            one.end(NOW, right=None)
    assert looked_at(guesses, 10, "admin", PARTY) == 4, "what nobody looked at is no guess"


def test_many_addresses_guess_slowly_and_the_user_goes_on() -> None:
    guesses = Guesses(LIMITS)
    home = Source("192.0.2.1")
    assert attempt(guesses, "admin", home, right=True)
    assert looked_at(guesses, 1000, "admin") == 10
    for _ in range(50):
        assert attempt(guesses, "admin", home, right=True)
    assert not attempt(guesses, "admin", elsewhere(), right=True)
    assert attempt(guesses, "admin", elsewhere(), right=True, now=NOW + 10)
    assert attempt(guesses, "bob", elsewhere(), right=True)


def test_a_right_one_does_not_pay_for_wrong_ones() -> None:
    guesses = Guesses(LIMITS)
    for _ in range(9):
        looked_at(guesses, 1, "admin")
        attempt(guesses, "admin", elsewhere(), right=True)
    assert looked_at(guesses, 10, "admin") == 1


def test_from_where_a_right_one_came_wrong_ones_are_slowed_down_as_ever() -> None:
    guesses = Guesses(LIMITS)
    home = Source("192.0.2.1")
    attempt(guesses, "admin", home, right=True)
    assert sum(attempt(guesses, "admin", home) for _ in range(20)) == LIMITS.free_attempts


def test_invented_addresses_push_out_nobodys_record() -> None:
    guesses = Guesses(ThrottleLimits(free_attempts=1, remembered=50, guesses_through_relying_party=4))
    attacker = Source("198.51.100.1")
    assert attempt(guesses, "admin", attacker)
    assert looked_at(guesses, 1000, "somebody", PARTY) == 4
    assert not attempt(guesses, "admin", attacker)
