"""The table of rates and memory, with each figure beside its goal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.table import Table

from tests.benchmarks import workload
from tests.benchmarks.figures import Comparison, Goal, growth
from tests.benchmarks.load import CONCURRENCY
from tests.benchmarks.measuring import BURST_SECONDS, ROUNDS, SizeResult

MEGABYTE = 1_000_000

_RATE_GOALS = {
    (workload.CHECK, workload.ECHO): Goal(at_least=0.4),
    (workload.EXECUTE, workload.ECHO): Goal(at_least=0.6),
    (workload.GUARDED, workload.ECHO): Goal(at_least=0.9),
    (workload.ISSUE, workload.SIGNING): Goal(at_least=0.15),
}
_PAGE_GROWTH = Goal(at_most=2.0)
_MEMORY_GROWTH = Goal(at_most=1.2)
_MEMORY = Goal(at_most=200.0)
_PAGES = (workload.LIST, workload.LIST_OWN)


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table; figures as text."""

    what: str
    size: int
    figure: str
    latency: str = ""
    beside: str = ""
    goal: str = ""
    reached: bool | None = None


def rows(results: Sequence[SizeResult]) -> Iterator[Row]:
    """All lines, in order. The goals for growth are held against the first size."""
    first = results[0]
    for result in results:
        for (name, other), comparison in result.comparisons.items():
            yield _rate_row(first, result, name, other, comparison)
        for service, memory in result.memory.items():
            yield _memory_row(result.size, f"resident memory, {service}", memory, first.memory[service], first.size)


def make_table(results: Sequence[SizeResult], database: str) -> Table:
    """The table of a run."""
    table = Table(
        title=f"Handclasp beside a bare grpcio echo over mutual TLS ({database})",
        caption=(
            f"{CONCURRENCY} calls at once on one connection, all from the same client process. Medians of {ROUNDS}"
            f" rounds; in each, what is compared runs {BURST_SECONDS:g} s, one after the other. Ratios are of calls/s."
        ),
        caption_justify="left",
    )
    table.add_column("measured")
    table.add_column("certificates", justify="right")
    table.add_column("figure", justify="right")
    table.add_column("median / 99 %", justify="right")
    table.add_column("beside", justify="right")
    table.add_column("goal")
    size = None
    for row in rows(results):
        if size not in {None, row.size}:
            table.add_section()
        size = row.size
        goal = marked(row.goal, row.reached)
        table.add_row(row.what, f"{row.size:,}", row.figure, row.latency, row.beside, goal)
    return table


def marked(goal: str, reached: bool | None) -> str:
    """A goal with whether it was reached, if it is known."""
    return goal + {None: "", True: " [green]reached[/]", False: " [yellow]missed[/]"}[reached]


def _rate_row(first: SizeResult, result: SizeResult, name: str, other: str, comparison: Comparison) -> Row:
    goal, reached = "", None
    if (wanted := _RATE_GOALS.get((name, other))) is not None:
        goal, reached = f"≥ {wanted.at_least:g}", wanted.reached(comparison.ratio)
    elif name in _PAGES and result is not first:
        times = growth(first.comparisons[name, other], comparison)
        goal = f"{times:.2f}× the time at {first.size:,}; ≤ {_PAGE_GROWTH.at_most:g}×"
        reached = _PAGE_GROWTH.reached(times)
    return Row(
        what=name,
        size=result.size,
        figure=f"{comparison.rate:,.0f}/s",
        latency=f"{comparison.latency(50) * 1000:.1f} / {comparison.latency(99) * 1000:.1f} ms",
        beside=f"{comparison.ratio:.2f} of {other}",
        goal=goal,
        reached=reached,
    )


def _memory_row(size: int, what: str, memory: int, first_memory: int, first_size: int) -> Row:
    megabytes, times = memory / MEGABYTE, memory / first_memory
    goal, reached = f"≤ {_MEMORY.at_most:g} MB", _MEMORY.reached(megabytes)
    if size != first_size:
        goal = f"{times:.2f}× that at {first_size:,}; ≤ {_MEMORY_GROWTH.at_most:g}×, {goal}"
        reached = reached and _MEMORY_GROWTH.reached(times)
    return Row(what, size, f"{megabytes:.0f} MB", goal=goal, reached=reached)
