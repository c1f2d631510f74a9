"""Between structures, JSON text and plain values."""

from __future__ import annotations

import json
from contextlib import suppress
from enum import Enum
from typing import Any

import pytest
from google.protobuf.struct_pb2 import Struct, Value
from hypothesis import given
from hypothesis import strategies as st

from handclasp.authoring import ExactFloat
from handclasp.errors import InvalidArgument
from handclasp.integration_execution.payload import (
    MAX_DEPTH,
    NotExactError,
    NotJsonError,
    from_json,
    from_struct,
    has_more_values,
    struct_has_more_values,
    to_json,
    to_struct,
)

plain_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | plain_text
objects = st.dictionaries(
    plain_text,
    st.recursive(leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(plain_text, inner, max_size=4)),
)


@given(objects)
def test_json_text_comes_back_as_it_was(value: dict[str, Any]) -> None:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    assert to_json(from_json(text)) == text


class Kelvin(float):
    """A kind of float that writes itself as numpy's do."""

    def __repr__(self) -> str:
        return f"Kelvin({float(self)!r})"


class Level(float, Enum):
    HIGH = 2.5


def test_kinds_of_float_are_written_as_numbers() -> None:
    assert to_json({"a": [Kelvin(1e22), Level.HIGH]}) == '{"a":[1e+22,2.5]}'


@given(objects)
def test_what_is_written_is_json(value: dict[str, Any]) -> None:
    assert json.loads(to_json(value)) == value


@given(objects)
def test_structures_come_back_as_they_were_or_are_refused(value: dict[str, Any]) -> None:
    try:
        struct = to_struct(value)
    except NotExactError:
        return
    assert from_struct(struct) == value


@given(st.text() | st.binary().map(lambda raw: raw.decode("latin-1")))
def test_any_text_is_read_or_refused(text: str) -> None:
    with suppress(InvalidArgument):
        assert isinstance(from_json(text), dict)


@pytest.mark.parametrize("number", ["0.10", "1e400", "-0.0", "1E+2", "0.1234567890123456789012345678901234567890"])
def test_numbers_keep_their_digits(number: str) -> None:
    value = from_json(f'{{"n":{number}}}')["n"]
    assert isinstance(value, ExactFloat)
    assert str(value) == number


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "line 1, column 1"),
        ("[1]", "not a JSON object"),
        ("1", "not a JSON object"),
        ('{"a":NaN}', "NaN"),
        ('{"a":-Infinity}', "Infinity"),
        ('{"a":1,"a":2}', "'a' is repeated"),
        ('{"a":{"b":1,"b":1}}', "'b' is repeated"),
        ('{"a":"\\ud800"}', "surrogate"),
        ('{"\\udfff":1}', "surrogate"),
        ('{"a":' + "9" * 5000 + "}", "limit"),
        ('{"a":' + "[" * MAX_DEPTH + "]" * MAX_DEPTH + "}", "deeply"),
        ('{"a":' + "[" * 100_000 + "]" * 100_000 + "}", "deeply"),
    ],
)
def test_what_is_no_json_object_is_refused(text: str, fault: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        from_json(text)
    (violation,) = caught.value.violations
    assert violation.field == "input_json"
    assert fault in violation.description


def test_the_deepest_nesting_is_taken_and_given() -> None:
    text = '{"a":' * (MAX_DEPTH - 1) + "{}" + "}" * (MAX_DEPTH - 1)
    assert to_json(from_json(text)) == text


def test_a_surrogate_pair_is_a_character() -> None:
    assert from_json('{"a":"\\ud83d\\ude00"}') == {"a": "😀"}


def test_whole_doubles_of_a_structure_are_integers() -> None:
    struct = Struct()
    struct["whole"], struct["part"], struct["big"] = 3.0, 3.5, 1e300
    value = from_struct(struct)
    assert [type(item) for item in (value["whole"], value["part"], value["big"])] == [int, float, float]


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_a_structure_with_no_number_is_refused_by_its_path(number: float) -> None:
    struct = Struct()
    struct.fields["a"].list_value.values.add().struct_value.fields["b"].number_value = number
    with pytest.raises(InvalidArgument) as caught:
        from_struct(struct)
    assert [violation.field for violation in caught.value.violations] == ["a.0.b"]


def test_a_value_without_a_kind_is_refused() -> None:
    with pytest.raises(InvalidArgument):
        from_struct(Struct(fields={"a": Value()}))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), {1, 2}])
def test_what_json_cannot_hold_is_not_written(value: Any) -> None:
    for write in (to_json, to_struct):
        with pytest.raises(NotJsonError, match=r"a\.0"):
            write({"a": [value]})


def test_an_integer_that_a_double_cannot_hold_is_not_written_to_a_structure() -> None:
    assert to_struct({"n": -(2**53)})["n"] == -(2**53)
    with pytest.raises(NotExactError, match=r"at a\.n"):
        to_struct({"a": {"n": 2**53 + 1}})


@given(objects, st.sampled_from([None, 1]))
def test_values_are_counted_as_they_are(value: dict[str, Any], indent: int | None) -> None:
    text, struct = json.dumps(value, indent=indent), None
    with suppress(NotExactError):
        struct = to_struct(value)
    count = count_values(value)
    assert has_more_values(text, count - 1)
    assert not has_more_values(text, count)
    if struct is not None:
        assert struct_has_more_values(struct, count - 1)
        assert not struct_has_more_values(struct, count)


def count_values(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return 1 + sum(map(count_values, inner))
