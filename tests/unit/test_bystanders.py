"""The verdict on an attack, which campaign tests rest on."""

from __future__ import annotations

import multiprocessing
from collections import Counter

import pytest

from tests.support.bystanders import UNTOUCHED, Calls, Crowd


def verdict(*, quiet: float, attacked: float, machine: float = 0.001, failed: int = 0) -> bool:
    """Whether callers count as served, of whom each call took so many seconds."""
    connection, _ = multiprocessing.Pipe()
    crowd = Crowd(connection)
    crowd.quiet = {"caller": Calls([quiet] * 100), UNTOUCHED: Calls([0.001] * 100)}
    failures = Counter({"UNAVAILABLE": failed})
    crowd.attacked = {"caller": Calls([attacked] * (100 - failed), failures), UNTOUCHED: Calls([machine] * 100)}
    try:
        crowd.assert_served()
    except AssertionError:
        return False
    return True


@pytest.mark.parametrize(
    ("quiet", "attacked", "served"),
    [(0.1, 0.49, True), (0.1, 0.51, False), (0.001, 0.24, True), (0.001, 0.26, False)],
)
def test_slower_than_in_quiet(quiet: float, attacked: float, *, served: bool) -> None:
    assert verdict(quiet=quiet, attacked=attacked) is served


def test_slower_than_the_machine_is_for_everybody() -> None:
    assert verdict(quiet=0.01, attacked=0.9, machine=0.2)
    assert not verdict(quiet=0.01, attacked=1.1, machine=0.2)


def test_calls_that_fail() -> None:
    assert verdict(quiet=0.01, attacked=0.01, failed=4)
    assert not verdict(quiet=0.01, attacked=0.01, failed=5)
    assert not verdict(quiet=0.01, attacked=0.01, failed=100)
