"""What the second table says."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.benchmarks.barrier import BarrierResult
from tests.benchmarks.barrier_report import Line, lines
from tests.benchmarks.figures import Waits
from tests.benchmarks.handshakes import Handshakes
from tests.benchmarks.remembering import Memory
from tests.benchmarks.violations import Violations

FAST, SLOW = Waits([0.004] * 100), Waits([0.004] * 90 + [0.2] * 10)
RESULT = BarrierResult(
    until_return={1: SLOW, 10: FAST, 100: SLOW},
    until_abort=SLOW,
    violations=Violations(2_000, 0, 5_000),
    memory={10: Memory(1_000, 90_000_000, 90_500_000)},
    handshakes={1: Handshakes(first=SLOW, following=FAST)},
)


def found(result: BarrierResult, what: str) -> list[Line]:
    return [line for line in lines(result) if what in line.what]


def test_only_ten_watchers_have_a_goal_and_it_is_for_the_99th_percentile() -> None:
    one, ten, hundred = found(RESULT, "until it returns")
    assert (one.reached, ten.reached, hundred.reached) == (None, True, None)
    assert (ten.figure, hundred.figure) == ("4.0 / 4.0 ms", "4.0 / 200.0 ms")
    slow = replace(RESULT, until_return={10: SLOW})
    assert [line.reached for line in found(slow, "until it returns")] == [False]


def test_an_abort_that_is_late_now_and_then_misses_its_goal() -> None:
    assert [line.reached for line in found(RESULT, "call in progress")] == [False]


@pytest.mark.parametrize(("allowed", "figure", "reached"), [(0, "0 of 2,000", True), (1, "1 of 2,000", False)])
def test_a_single_violation_shows(allowed: int, figure: str, reached: bool) -> None:
    (line,) = found(replace(RESULT, violations=Violations(2_000, allowed, 0)), "after it had returned")
    assert (line.figure, line.reached) == (figure, reached)


def test_memory_is_by_decision_without_what_was_there_before() -> None:
    (line,) = found(RESULT, "resident memory")
    assert line.figure == "90 MB; 500 bytes a decision"
