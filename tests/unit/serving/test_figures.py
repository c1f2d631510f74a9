"""Distributions, as Prometheus reads them."""

from __future__ import annotations

from handclasp.serving.figures import Distribution


def test_a_value_counts_below_each_bound_that_it_does_not_exceed() -> None:
    sizes = Distribution((1, 10))
    for value in (0.5, 1, 1.5, 10, 11, 1e9):
        sizes.observe(value)
    assert sizes.buckets() == [("1.0", 2.0), ("10.0", 4.0), ("+Inf", 6.0)]
    assert (sizes.count, sizes.sum) == (6, 0.5 + 1 + 1.5 + 10 + 11 + 1e9)
