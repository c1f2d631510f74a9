"""What several workers tell, taken together."""

from __future__ import annotations

from collections.abc import Iterable

from handclasp.serving.figures import Distribution
from handclasp.transport.metric import counter, gauge, histogram
from handclasp.transport.metrics import as_text
from handclasp.transport.worker_metrics import WorkerTotals

CALLS = counter("test_calls", "Calls.", ("how",))
ROOM = gauge("test_room", "Room.")
LEASE = gauge("test_lease", "Lease.", across=min)
SECONDS = histogram("test_seconds", "Times.")


def told(calls: float, room: float, lease: float, *seconds: float, how: str = "well") -> str:
    """What a worker says."""
    times = Distribution((1.0,))
    for value in seconds:
        times.observe(value)
    families = [CALLS.family([((how,), calls)]), ROOM.of(room), LEASE.of(lease), SECONDS.of(times)]
    return as_text(families).decode()


def together(totals: WorkerTotals, answering: Iterable[int]) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in totals.families(answering)
        for sample in family.samples
    }


def new_totals() -> WorkerTotals:
    return WorkerTotals((CALLS, ROOM, LEASE, SECONDS))


def test_counters_are_summed_and_gauges_are_what_they_say() -> None:
    totals = new_totals()
    totals.take(1, 101, told(3, 10, 1, 0.5))
    totals.take(2, 102, told(4, 20, 0, 0.5, 2.0, how="badly"))
    assert together(totals, [1, 2]) == {
        ("test_calls_total", "well"): 3,
        ("test_calls_total", "badly"): 4,
        ("test_room",): 30,
        ("test_lease",): 0,
        ("test_seconds_bucket", "1.0"): 2,
        ("test_seconds_bucket", "+Inf"): 3,
        ("test_seconds_count",): 3,
        ("test_seconds_sum",): 3.0,
    }


def test_nothing_that_was_counted_goes_back_when_a_worker_ends() -> None:
    totals = new_totals()
    totals.take(1, 101, told(3, 10, 1, 0.5))
    totals.take(2, 102, told(4, 20, 1))
    # It does not answer, and then another process is there in its place, twice.
    silent = together(totals, [1])
    assert (silent["test_calls_total", "well"], silent["test_room",]) == (7, 10)
    totals.take(2, 103, told(1, 20, 1, 0.5))
    totals.take(1, 101, told(5, 10, 1, 0.5))
    assert together(totals, [1, 2])["test_calls_total", "well"] == 5 + 4 + 1
    totals.take(2, 104, told(2, 20, 1))
    last = together(totals, [1, 2])
    assert last["test_calls_total", "well"] == 5 + 4 + 1 + 2
    assert last["test_seconds_count",] == 2
    assert last["test_room",] == 30


def test_what_is_no_metric_of_the_service_is_left_out() -> None:
    totals = WorkerTotals((CALLS,))
    totals.take(1, 101, told(3, 10, 1))
    assert together(totals, [1]) == {("test_calls_total", "well"): 3}
