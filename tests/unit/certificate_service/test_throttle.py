"""The throttle: when the next password is looked at."""

from __future__ import annotations

from datetime import timedelta

import pytest

from handclasp.certificate_service.passwords.throttle import PasswordThrottle, ThrottleLimits

NOW = 1000.0
SECOND = 1.0
LIMITS = ThrottleLimits(
    free_attempts=3,
    first_wait=timedelta(seconds=1),
    longest_wait=timedelta(seconds=8),
    forget_after=timedelta(minutes=1),
    remembered=4,
)
ALICE = ("alice", "192.0.2.1")


@pytest.fixture
def throttle() -> PasswordThrottle:
    return PasswordThrottle(LIMITS)


def fail(throttle: PasswordThrottle, count: int, who: tuple[str, str] = ALICE) -> None:
    """So many wrong ones, at `NOW`, each let through."""
    for _ in range(count):
        assert throttle.begin(*who, NOW) is None
        throttle.end(*who, NOW, right=False)


def test_the_first_ones_are_free(throttle: PasswordThrottle) -> None:
    fail(throttle, 3)
    assert throttle.begin(*ALICE, NOW) == NOW + SECOND


def test_after_the_wait_one_is_looked_at(throttle: PasswordThrottle) -> None:
    fail(throttle, 3)
    assert throttle.begin(*ALICE, NOW + SECOND - 0.001) is not None
    assert throttle.begin(*ALICE, NOW + SECOND) is None


def test_a_first_wait_of_a_day_can_be_doubled_often() -> None:
    day = timedelta(days=1)
    limits = ThrottleLimits(free_attempts=1, first_wait=day, longest_wait=day, forget_after=2 * day)
    throttle = PasswordThrottle(limits)
    fail(throttle, 1)
    now = NOW
    for _ in range(40):
        now += day.total_seconds()
        assert throttle.begin(*ALICE, now) is None
        throttle.end(*ALICE, now, right=False)
    assert throttle.begin(*ALICE, now) is not None


def test_waits_double_up_to_the_longest(throttle: PasswordThrottle) -> None:
    fail(throttle, 3)
    now, waits = NOW, []
    for _ in range(6):
        until = throttle.begin(*ALICE, now)
        assert until is not None
        waits.append((until - now) / SECOND)
        now = until
        assert throttle.begin(*ALICE, now) is None
        throttle.end(*ALICE, now, right=False)
    assert waits == [1, 2, 4, 8, 8, 8]


def test_refused_attempts_do_not_lengthen_the_wait(throttle: PasswordThrottle) -> None:
    fail(throttle, 3)
    for _ in range(10):
        assert throttle.begin(*ALICE, NOW + SECOND / 2) == NOW + SECOND
    assert throttle.begin(*ALICE, NOW + SECOND) is None


def test_those_being_checked_count_as_wrong(throttle: PasswordThrottle) -> None:
    assert [throttle.begin(*ALICE, NOW) for _ in range(3)] == [None] * 3
    assert throttle.begin(*ALICE, NOW) == NOW + SECOND
    # Nor does time help while they are being checked.
    later = NOW + 3600
    assert throttle.begin(*ALICE, later) == later + SECOND
    for _ in range(3):
        throttle.end(*ALICE, later, right=False)
    assert throttle.begin(*ALICE, later) == later + SECOND


def test_after_a_wait_only_one_is_looked_at_at_once(throttle: PasswordThrottle) -> None:
    fail(throttle, 3)
    assert throttle.begin(*ALICE, NOW + SECOND) is None
    assert throttle.begin(*ALICE, NOW + SECOND) is not None


def test_a_right_one_clears_the_record(throttle: PasswordThrottle) -> None:
    fail(throttle, 2)
    assert throttle.begin(*ALICE, NOW) is None
    throttle.end(*ALICE, NOW, right=True)
    fail(throttle, 3)


def test_others_are_not_slowed_down(throttle: PasswordThrottle) -> None:
    fail(throttle, 3)
    fail(throttle, 3, ("bob", ALICE[1]))
    fail(throttle, 3, (ALICE[0], "192.0.2.2"))


def test_all_is_forgotten_after_a_while(throttle: PasswordThrottle) -> None:
    fail(throttle, 3)
    just_before = NOW + LIMITS.forget_after.total_seconds()
    assert throttle.begin(*ALICE, just_before) is None
    throttle.end(*ALICE, just_before, right=False)
    assert throttle.begin(*ALICE, just_before) == just_before + 2 * SECOND
    after = just_before + LIMITS.forget_after.total_seconds() + SECOND
    for _ in range(3):
        assert throttle.begin(*ALICE, after) is None
        throttle.end(*ALICE, after, right=False)


def test_no_more_are_remembered_than_the_limit_says(throttle: PasswordThrottle) -> None:
    fail(throttle, 3)
    for number in range(LIMITS.remembered - 1):
        fail(throttle, 1, (f"user-{number}", ALICE[1]))
    # Still there, and by that the one used last.
    assert throttle.begin(*ALICE, NOW) is not None
    for number in range(LIMITS.remembered - 1):
        fail(throttle, 1, (f"other-{number}", ALICE[1]))
    assert throttle.begin(*ALICE, NOW) is not None
    fail(throttle, 2, ("user-0", ALICE[1]))
    assert len(throttle._records) == LIMITS.remembered


def test_an_attempt_whose_record_was_pushed_out_ends_well() -> None:
    throttle = PasswordThrottle(ThrottleLimits(remembered=1))
    assert throttle.begin(*ALICE, NOW) is None
    assert throttle.begin("bob", ALICE[1], NOW) is None
    throttle.end(*ALICE, NOW, right=False)
    throttle.end("bob", ALICE[1], NOW, right=True)
    assert throttle.begin(*ALICE, NOW) is None
