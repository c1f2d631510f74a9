"""A peer is told refusals at a pace."""

from __future__ import annotations

from handclasp.serving.refusal_pace import RefusalPace


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_the_first_ones_are_told_at_once_and_the_rest_at_the_pace() -> None:
    pace = RefusalPace(10, 60.0, Clock())
    delays = [pace.delay("a") for _ in range(50)]
    assert [round(delay, 6) for delay in delays[:21]] == [0.0] * 21
    assert [round(delay, 6) for delay in delays[21:24]] == [0.1, 0.2, 0.3]


def test_none_is_held_back_for_longer_than_the_limit() -> None:
    pace = RefusalPace(10, 1.0, Clock())
    assert max(pace.delay("a") for _ in range(1000)) <= 1.0


def test_other_peers_do_not_wait_and_nobody_does_after_a_while() -> None:
    clock = Clock()
    pace = RefusalPace(10, 5.0, clock)
    for _ in range(1000):
        pace.delay("a")
        assert pace.delay(None) == 0.0
    assert pace.delay("b") == 0.0
    clock.now += 10
    assert pace.delay("a") == 0.0
