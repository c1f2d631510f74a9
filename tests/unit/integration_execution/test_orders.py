"""Orders are added up exactly."""

from __future__ import annotations

import json
from collections import defaultdict
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from handclasp.integration_execution.builtin.orders import Orders, summarize
from handclasp.integration_execution.payload import from_json

prices = st.decimals(min_value=-(10**17), max_value=10**17, places=12, allow_nan=False).map(
    lambda price: format(price, "f")
)
lines = st.fixed_dictionaries(
    {
        "sku": st.just("x"),
        "quantity": st.integers(1, 10**9),
        "unit_price": prices,
        "currency": st.sampled_from(["EUR", "USD", "JPY"]),
    }
)
orders = st.lists(st.fixed_dictionaries({"customer": st.sampled_from("abc"), "lines": st.lists(lines, max_size=5)}))


async def summary_of(text: str) -> dict[str, Any]:
    output = await summarize(Orders.model_validate(from_json(text)))
    return output.model_dump(mode="json")


@given(orders)
async def test_totals_are_exact_and_sorted(placed: list[dict[str, Any]]) -> None:
    expected: defaultdict[tuple[str, str], Fraction] = defaultdict(Fraction)
    for order in placed:
        for line in order["lines"]:
            expected[order["customer"], line["currency"]] += line["quantity"] * Fraction(line["unit_price"])
    summary = await summary_of(json.dumps({"orders": placed}))
    totals = [((item["customer"], item["currency"]), Fraction(item["total"])) for item in summary["totals"]]
    assert totals == sorted(expected.items())


async def test_prices_are_taken_as_written_as_strings_and_as_numbers() -> None:
    template = '{"orders":[{"customer":"a","lines":[{"sku":"x","quantity":3,"unit_price":%s,"currency":"EUR"}]}]}'
    for price in ('"0.10"', "0.10"):
        assert (await summary_of(template % price))["totals"][0]["total"] == "0.30"
    assert (await summary_of(template % "123456789012345678.000000000001"))["totals"][0]["total"] == (
        "370370367037037034.000000000003"
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("unit_price", '"NaN"'),
        ("unit_price", '"1_000"'),
        ("unit_price", '" 1"'),
        ("unit_price", '"1e5"'),
        ("unit_price", '"１"'),
        ("unit_price", "1e999999"),
        ("unit_price", "1e-13"),
        ("unit_price", "true"),
        ("quantity", "0"),
        ("quantity", "1.5"),
        ("currency", '"eur"'),
        ("currency", '"EUR\\n"'),
        ("sku", '""'),
        ("more", "1"),
    ],
)
def test_what_does_not_fit_is_named(field: str, value: str) -> None:
    line = {"sku": '"x"', "quantity": "1", "unit_price": '"1"', "currency": '"EUR"'} | {field: value}
    text = ",".join(f'"{name}":{item}' for name, item in line.items())
    with pytest.raises(ValidationError) as caught:
        Orders.model_validate(from_json(f'{{"orders":[{{"customer":"a","lines":[{{{text}}}]}}]}}'))
    assert {error["loc"] for error in caught.value.errors()} == {("orders", 0, "lines", 0, field)}
