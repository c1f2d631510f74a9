"""A flood of refusals costs few lines, and each refusal is counted in one of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from handclasp.serving.refusal_log import RefusalLimits, RefusalLog

LIMITS = RefusalLimits(window=60.0, different=10, different_per_peer=3)


@dataclass
class Paper:
    """A log to look at, and its clock."""

    now: float = 0.0
    lines: list[dict[str, Any]] = field(default_factory=list)

    def write(self, event: str, **fields: Any) -> None:
        self.lines.append({"event": event, **fields})

    def log(self) -> RefusalLog:
        return RefusalLog(LIMITS, clock=lambda: self.now, write=self.write)


def test_the_first_is_logged_at_once_and_the_others_when_the_window_ends() -> None:
    paper = Paper()
    log = paper.log()
    for number in range(5):
        log.record("refused", {"reason": "NO", "peer": "192.0.2.1", "user": ""}, {"decision": f"d{number}"})
    assert paper.lines == [{"event": "refused", "reason": "NO", "peer": "192.0.2.1", "decision": "d0"}]

    paper.now = 61.0
    log.record("refused", {"reason": "OTHER", "peer": "192.0.2.1"})
    assert paper.lines[1] == {"event": "refused", "reason": "NO", "peer": "192.0.2.1", "decision": "d4", "count": 4}
    assert len(paper.lines) == 3

    # It goes on: one line a window, and at once again after a quiet one.
    log.record("refused", {"reason": "NO", "peer": "192.0.2.1"})
    assert len(paper.lines) == 3
    for moment in (122.0, 200.0):
        paper.now = moment
        log.record("refused", {"reason": "THIRD", "peer": "192.0.2.2"})
    log.record("refused", {"reason": "NO", "peer": "192.0.2.1"})
    assert paper.lines[-1] == {"event": "refused", "reason": "NO", "peer": "192.0.2.1"}


def test_nothing_is_lost_at_the_end() -> None:
    paper = Paper()
    log = paper.log()
    log.record("refused", {"reason": "NO"}, count=3)
    log.record("refused", {"reason": "NO"}, count=4)
    log.close()
    assert [line["count"] for line in paper.lines] == [3, 4]
    log.close()
    assert len(paper.lines) == 2


def test_one_peer_that_is_refused_in_many_ways_hides_no_other() -> None:
    paper = Paper()
    log = paper.log()
    for number in range(1000):
        log.record("refused", {"reason": "NO", "method": f"/m{number}", "peer": "192.0.2.1"})
    log.record("refused", {"reason": "NO", "method": "/m", "peer": "192.0.2.2"})
    assert paper.lines[-1] == {"event": "refused", "reason": "NO", "method": "/m", "peer": "192.0.2.2"}
    assert len(paper.lines) == 4
    log.close()
    assert paper.lines[-1] == {
        "event": "refused",
        "reason": "NO",
        "peer": "192.0.2.1",
        "others": "of this peer",
        "count": 997,
    }


@given(
    st.lists(
        st.tuples(st.sampled_from("ABC"), st.integers(0, 30), st.integers(0, 8), st.integers(0, 20), st.integers(1, 9))
    )
)
def test_each_refusal_is_in_exactly_one_line_and_lines_are_bounded(
    refusals: list[tuple[str, int, int, int, int]],
) -> None:
    paper = Paper()
    log = paper.log()
    happened: Counter[str] = Counter()
    for reason, peer, method, wait, count in refusals:
        paper.now += wait
        log.record("refused", {"reason": reason, "peer": f"192.0.2.{peer}", "method": f"/{method}"}, count=count)
        happened[reason] += count
    log.close()

    logged: Counter[str] = Counter()
    for line in paper.lines:
        logged[line["reason"]] += line.get("count", 1)
    assert logged == happened
    # Of each window: a first line and a count, of those told apart, and of the rest by reason.
    windows = paper.now // LIMITS.window + 1
    assert len(paper.lines) <= 2 * (LIMITS.different + 3) * (windows + 1)
