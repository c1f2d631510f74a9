"""The second table: revocation, each figure beside its goal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rich.table import Table

from tests.benchmarks import violations
from tests.benchmarks.barrier import BarrierResult
from tests.benchmarks.figures import Goal, Waits
from tests.benchmarks.report import MEGABYTE, marked

_RETURN_GOALS = {10: Goal(at_most=0.050)}
_ABORT = Goal(at_most=0.050)


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the table; figures as text."""

    what: str
    beside: str
    figure: str
    goal: str = ""
    reached: bool | None = None


def lines(result: BarrierResult) -> Iterator[Line]:
    """All lines, in order."""
    for number, waits in result.until_return.items():
        others = "one watcher" if number == 1 else f"{number} watchers"
        yield _waits_line("RevokeCertificate, until it returns", others, waits, _RETURN_GOALS.get(number))
    yield _waits_line("from its call to the end of a call in progress", "", result.until_abort, _ABORT)
    found = result.violations
    yield Line(
        what="calls allowed after it had returned",
        beside=f"{violations.AT_ONCE} at once, {found.other_calls:,} calls of others",
        figure=f"{found.allowed:,} of {found.revocations:,}",
        goal="none, ever",
        reached=found.allowed == 0,
    )
    for sharing, memory in result.memory.items():
        peers = "each of another certificate" if sharing == 1 else f"{sharing} of each certificate"
        yield Line(
            what="resident memory of a relying party",
            beside=f"{memory.decisions:,} decisions, {peers}",
            figure=f"{memory.after / MEGABYTE:.0f} MB; {memory.per_decision:,.0f} bytes a decision",
        )
    for anchors, handshakes in result.handshakes.items():
        others = "one trust anchor" if anchors == 1 else f"{anchors:,} trust anchors"
        yield Line("new connection over mutual TLS", others, _median(handshakes.following))
        yield Line("the first one after a change", others, _median(handshakes.first))


def make_barrier_table(result: BarrierResult) -> Table:
    """The table of a run."""
    table = Table(
        title="Revocation is in force when the call returns",
        caption=(
            "Times are medians, and 99th percentiles where there are two, as a client on the same machine sees them;"
            " all watchers are on its cores, too. The execution server is one of them."
        ),
        caption_justify="left",
    )
    table.add_column("measured")
    table.add_column("with")
    table.add_column("figure", justify="right")
    table.add_column("goal")
    for line in lines(result):
        table.add_row(line.what, line.beside, line.figure, marked(line.goal, line.reached))
    return table


def _median(waits: Waits) -> str:
    return f"{waits.percentile(50) * 1000:.1f} ms"


def _waits_line(what: str, beside: str, waits: Waits, goal: Goal | None = None) -> Line:
    late = waits.percentile(99)
    figure = f"{waits.percentile(50) * 1000:.1f} / {late * 1000:.1f} ms"
    if goal is None or goal.at_most is None:
        return Line(what, beside, figure)
    return Line(what, beside, figure, f"99 % ≤ {goal.at_most * 1000:g} ms", goal.reached(late))
