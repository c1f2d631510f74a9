"""The benchmark's arithmetic."""

from __future__ import annotations

import hashlib

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tests.benchmarks.figures import Burst, Comparison, Goal, Waits, growth
from tests.benchmarks.filling import Copies
from tests.support.outside_ca import OutsideCA


def comparison(measured: list[int], beside: list[int]) -> Comparison:
    """Bursts of a second each, with so many calls."""
    return Comparison([Burst(calls, 1.0) for calls in measured], [Burst(calls, 1.0) for calls in beside])


def test_rates_are_calls_by_time() -> None:
    assert Burst(300, 1.5).rate == 200


def test_a_ratio_is_the_median_of_rounds_and_not_of_rates() -> None:
    # Other load halves everything in the second round, and hits only the echo in the third.
    found = comparison([100, 50, 100], [200, 100, 40])
    assert found.ratio == 0.5
    assert found.rate == 100


def test_rounds_belong_together() -> None:
    with pytest.raises(ValueError, match="zip"):
        _ = comparison([100], [100, 100]).ratio


def test_growth_counts_time_in_what_is_beside() -> None:
    # Half as fast on a machine that is half as fast has not grown; half as fast beside an unchanged echo has doubled.
    assert growth(comparison([100], [200]), comparison([50], [100])) == 1
    assert growth(comparison([100], [200]), comparison([50], [200])) == 2


def test_latencies_are_taken_over_all_rounds() -> None:
    bursts = [Burst(50, 1.0, [n / 100 for n in range(50)]), Burst(51, 1.0, [n / 100 for n in range(50, 101)])]
    found = Comparison(bursts, bursts)
    assert found.latency(50) == pytest.approx(0.5)
    assert found.latency(99) == pytest.approx(0.99)


@pytest.mark.parametrize(
    ("goal", "figure", "reached"),
    [
        (Goal(at_least=0.3), 0.3, True),
        (Goal(at_least=0.3), 0.29, False),
        (Goal(at_most=2.0), 2.0, True),
        (Goal(at_most=2.0), 2.01, False),
    ],
)
def test_goals_include_their_bounds(goal: Goal, figure: float, reached: bool) -> None:
    assert goal.reached(figure) is reached


@pytest.mark.parametrize("bits", [151, 152, 153, 159])
def test_copies_can_be_read_and_differ_in_the_serial_number(bits: int) -> None:
    # With 152 bits the number begins with a byte of zero, which is an error before what needs none.
    original = OutsideCA("Test CA").issue("alice", serial=1 << bits - 1).certificate
    copies = Copies(original.public_bytes(Encoding.DER))
    made = [copies.make() for _ in range(100)]
    assert len({hashlib.sha256(der).digest() for der, _, _ in made}) == 100
    for der, signed, serial in made:
        copy = x509.load_der_x509_certificate(der)
        assert copy.serial_number == serial != original.serial_number
        assert copy.tbs_certificate_bytes == signed
        assert copy.subject == original.subject
        assert list(copy.extensions) == list(original.extensions)


def test_percentiles_are_what_so_many_stayed_within() -> None:
    waits = Waits([n / 100 for n in range(101)])
    assert waits.percentile(50) == pytest.approx(0.5)
    assert waits.percentile(99) == pytest.approx(0.99)
    # One that takes forever in a thousand is no 99th percentile.
    assert Waits([0.001] * 999 + [60.0]).percentile(99) == pytest.approx(0.001)
