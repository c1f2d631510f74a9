"""What the decorator takes, and what it says about the rest."""

from __future__ import annotations

import copy
import pickle
from collections.abc import AsyncIterator
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel, RootModel

from handclasp.authoring import ExactFloat, Integration, integration


class Wish(BaseModel):
    amount: Decimal = Decimal(0)


class Gift(BaseModel):
    text: str = ""


class Numbers(RootModel[list[int]]):
    pass


async def works(value: Wish) -> Gift:
    """Grants a wish.

    Or not.
    """
    return Gift(text=str(value.amount))


async def test_it_is_still_a_function_and_knows_its_types() -> None:
    made = integration(name="t.works", version="1.20.3", timeout=2.5)(works)
    assert isinstance(made, Integration)
    assert await made(Wish(amount=Decimal("1.50"))) == Gift(text="1.50")
    assert (made.input_type, made.output_type) == (Wish, Gift)
    assert made.version_key == (1, 20, 3)
    assert made.timeout == timedelta(seconds=2.5)
    assert made.enabled
    assert made.description == "Grants a wish."
    assert "amount" in made.input_schema["properties"]
    assert "text" in made.output_schema["properties"]


def sync(value: Wish) -> Gift:
    return Gift()


async def generator(value: Wish) -> AsyncIterator[Gift]:
    yield Gift()


async def no_input() -> Gift:
    return Gift()


async def two_inputs(value: Wish, other: Wish) -> Gift:
    return Gift()


async def keyword_only(*, value: Wish) -> Gift:
    return Gift()


async def without_annotation(value):  # type: ignore[no-untyped-def]  # that is the point
    return Gift()


async def without_return(value: Wish):  # type: ignore[no-untyped-def]  # that is the point
    return Gift()


async def plain_types(value: dict[str, Any]) -> Gift:
    return Gift()


async def any_model(value: BaseModel) -> Gift:
    return Gift()


async def a_list(value: Numbers) -> Gift:
    return Gift()


async def unknown_type(value: Nowhere) -> Gift:  # type: ignore[name-defined]  # noqa: F821
    return Gift()


@pytest.mark.parametrize(
    ("function", "fault"),
    [
        (sync, "async def"),
        (generator, "yield"),
        (no_input, "exactly one"),
        (two_inputs, "exactly one"),
        (keyword_only, "exactly one"),
        (without_annotation, "'value'"),
        (without_return, "return value"),
        (plain_types, "'value'"),
        (any_model, "'value'"),
        (a_list, "JSON object"),
        (unknown_type, "Nowhere"),
    ],
)
def test_other_functions_are_refused(function: Any, fault: str) -> None:
    with pytest.raises(TypeError, match=fault) as caught:
        integration(name="t.wrong", version="1.0.0")(function)
    assert "t.wrong" in str(caught.value)


@pytest.mark.parametrize("name", ["", "Orders", ".orders", "a" * 64, "orders/sum", "orders\n"])
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        integration(name=name, version="1.0.0")


@pytest.mark.parametrize("version", ["", "1", "1.0", "1.0.0.0", "v1.0.0", "1.0.0-rc1", "01.0.0", "1.0.0\n", "１.0.0"])
def test_bad_versions_are_refused(version: str) -> None:
    with pytest.raises(ValueError, match="MAJOR"):
        integration(name="orders", version=version)


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), timedelta(0), timedelta(days=2)])
def test_bad_timeouts_are_refused(timeout: float | timedelta) -> None:
    with pytest.raises(ValueError, match="timeout"):
        integration(name="orders", version="1.0.0", timeout=timeout)


def test_an_exact_float_survives_copying() -> None:
    number = ExactFloat("0.10")
    for same in (copy.deepcopy(number), pickle.loads(pickle.dumps(number))):  # noqa: S301 made in this line
        assert str(same) == "0.10"
    assert Wish.model_validate({"amount": number}).amount.as_tuple() == Decimal("0.10").as_tuple()
