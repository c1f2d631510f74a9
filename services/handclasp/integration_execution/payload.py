"""Between what travels (a `Struct`, or JSON text) and plain Python values, without losing a digit on the way.

Structures hold doubles. Whole numbers up to 2**53 become `int`, so that they look like themselves as JSON. JSON text is
read with its numbers as written: `int`, or `ExactFloat`, which keeps the text.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from json.encoder import encode_basestring
from typing import Any, NoReturn, TypeAlias

from google.protobuf.struct_pb2 import ListValue, Struct, Value

from handclasp.authoring import ExactFloat
from handclasp.errors import FieldViolation, InvalidArgument, Reason

MAX_EXACT_INTEGER = 2**53
"""Beyond it, doubles skip whole numbers."""
MAX_DEPTH = 100
"""How deeply objects and lists may be nested, as in protobuf messages."""

INPUT_JSON_FIELD = "input_json"

_Path: TypeAlias = "tuple[_Path, str | int] | None"
"""Where a value is: the path of what holds it, and its name or index there. Spelt out only when something is wrong."""


class NotJsonError(Exception):
    """A value that JSON cannot hold, such as NaN. The message says where it is."""


class NotExactError(Exception):
    """A number that a double cannot hold exactly. The message says where it is."""


def input_invalid(violations: Iterable[FieldViolation]) -> InvalidArgument:
    """The refusal of an input, with the path of each field within the input."""
    found = tuple(violations)
    first = f"{found[0].field}: {found[0].description}" if found else "it does not fit"
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return InvalidArgument(
        Reason.INPUT_INVALID,
        f"the input does not fit: {first}{more}; the integration's input schema says what does",
        violations=found,
    )


def has_more_values(text: str, maximum: int) -> bool:
    """Whether JSON text has more values than that, without making any of them; of text that is not JSON, up to where it
    stops being so. Takes time in proportion to the text, and little of it.

    Names are not counted, as each goes with a value.
    """
    # Each value but the outermost follows a comma or is the first of an object or a list.
    if _separators(text) < maximum:
        return False
    # Those within strings do not count. What is escaped ends no string.
    outside = '"'.join(text.replace("\\\\", "").replace('\\"', "").split('"')[::2])
    for space in " \t\n\r":
        outside = outside.replace(space, "")
    return _separators(outside) - outside.count("{}") - outside.count("[]") >= maximum


def _separators(text: str) -> int:
    return text.count(",") + text.count("[") + text.count("{")


def struct_has_more_values(struct: Struct, maximum: int) -> bool:
    """Whether a structure has more values than that. Looks at no more of them."""
    left = maximum - 1
    rest: list[Struct | ListValue] = [struct]
    while rest:
        container = rest.pop()
        values = container.values if isinstance(container, ListValue) else container.fields.values()
        left -= len(values)
        if left < 0:
            return True
        for value in values:
            kind = value.WhichOneof("kind")
            if kind == "struct_value":
                rest.append(value.struct_value)
            elif kind == "list_value":
                rest.append(value.list_value)
    return False


def from_struct(struct: Struct) -> dict[str, Any]:
    """Raises InvalidArgument (INPUT_INVALID) for NaN, Infinity, and values without a kind."""
    return {name: _from_value(value, (None, name)) for name, value in struct.fields.items()}


def _dotted(path: _Path) -> str:
    parts: list[str] = []
    while path is not None:
        path, part = path
        parts.append(str(part))
    return ".".join(reversed(parts))


def _from_value(value: Value, path: _Path) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "number_value":
        number = value.number_value
        if not math.isfinite(number):
            raise input_invalid([FieldViolation(_dotted(path), "is NaN or infinite, which JSON does not know")])
        return int(number) if number.is_integer() and abs(number) <= MAX_EXACT_INTEGER else number
    if kind == "struct_value":
        return {name: _from_value(item, (path, name)) for name, item in value.struct_value.fields.items()}
    if kind == "list_value":
        return [_from_value(item, (path, index)) for index, item in enumerate(value.list_value.values)]
    if kind == "string_value":
        return value.string_value
    if kind == "bool_value":
        return value.bool_value
    if kind == "null_value":
        return None
    raise input_invalid(
        [FieldViolation(_dotted(path), "is a google.protobuf.Value without a kind; use null_value for null")]
    )


def from_json(text: str) -> dict[str, Any]:
    """Reads a JSON object (RFC 8259), stricter than Python does: no NaN, no repeated names, no lone surrogates, and
    nested no deeper than `MAX_DEPTH`.

    Raises:
        InvalidArgument: INPUT_INVALID.
    """
    try:
        value = _DECODER.decode(text)
        if "\\u" in text:
            # Only an escape can bring in half of a surrogate pair, which no other encoding can carry on.
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except json.JSONDecodeError as error:
        raise _not_json(f"is not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise _too_deep() from None
    except UnicodeEncodeError:
        raise _not_json("has a lone surrogate escape (\\ud800 to \\udfff), which is no character") from None
    except ValueError as error:
        raise _not_json(str(error)) from None
    if not isinstance(value, dict):
        raise _not_json("is not a JSON object; put the value into one: {...}")
    if text.count("{") + text.count("[") > MAX_DEPTH and not _is_shallow(value):
        raise _too_deep()
    return value


def _is_shallow(value: dict[str, Any]) -> bool:
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        level = [
            item
            for container in level
            for item in (container.values() if isinstance(container, dict) else container)
            if isinstance(item, dict | list)
        ]
        if not level:
            return True
    return False


def _too_deep() -> InvalidArgument:
    return _not_json(f"is nested too deeply; {MAX_DEPTH} levels are the most")


def _not_json(fault: str) -> InvalidArgument:
    return input_invalid([FieldViolation(INPUT_JSON_FIELD, fault)])


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"has {name}, which JSON does not know")


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        repeated = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"has an object in which the name {repeated[:100]!r} is repeated")
    return found


# Made once: making one takes as long as reading a small object.
_DECODER = json.JSONDecoder(
    parse_float=ExactFloat, parse_constant=_refuse_constant, object_pairs_hook=_without_repetition
)


def to_json(value: dict[str, Any]) -> str:
    """Writes JSON text, without spaces, numbers as they stand.

    Raises:
        NotJsonError: there is something in it that JSON cannot hold.
    """
    parts: list[str] = []
    _write(value, None, parts)
    return "".join(parts)


def _write(value: Any, path: _Path, parts: list[str]) -> None:
    if isinstance(value, str):
        parts.append(encode_basestring(value))
    elif isinstance(value, dict):
        separator = "{"
        for name, item in value.items():
            parts += (separator, encode_basestring(name), ":")
            _write(item, (path, name), parts)
            separator = ","
        parts.append("}" if value else "{}")
    elif isinstance(value, list):
        separator = "["
        for index, item in enumerate(value):
            parts.append(separator)
            _write(item, (path, index), parts)
            separator = ","
        parts.append("]" if value else "[]")
    elif isinstance(value, ExactFloat):
        parts.append(value.text)
    elif value is None:
        parts.append("null")
    elif isinstance(value, bool):
        parts.append("true" if value else "false")
    elif isinstance(value, int):
        # Kinds of int and float from elsewhere, numpy's for example, write themselves as no JSON.
        parts.append(int.__repr__(value))
    else:
        parts.append(float.__repr__(_finite(value, path)))


def to_struct(value: dict[str, Any]) -> Struct:
    """
    Raises:
        NotJsonError: there is something in it that JSON cannot hold.
        NotExactError: there is an integer in it that a double cannot hold exactly.
    """
    struct = Struct()
    _fill_struct(struct, value, None)
    return struct


def _fill_struct(struct: Struct, value: dict[str, Any], path: _Path) -> None:
    for name, item in value.items():
        _fill_value(struct.fields[name], item, (path, name))


def _fill_list(values: ListValue, value: list[Any], path: _Path) -> None:
    for index, item in enumerate(value):
        _fill_value(values.values.add(), item, (path, index))


def _fill_value(target: Value, value: Any, path: _Path) -> None:
    if value is None:
        target.null_value = 0  # type: ignore[assignment] # NULL_VALUE, the only one there is
    elif isinstance(value, bool):
        target.bool_value = value
    elif isinstance(value, str):
        target.string_value = value
    elif isinstance(value, int):
        if abs(value) > MAX_EXACT_INTEGER:
            raise NotExactError(f"the integer at {_dotted(path)} is beyond 2**53")
        target.number_value = value
    elif isinstance(value, dict):
        target.struct_value.SetInParent()
        _fill_struct(target.struct_value, value, path)
    elif isinstance(value, list):
        target.list_value.SetInParent()
        _fill_list(target.list_value, value, path)
    else:
        target.number_value = _finite(value, path)


def _finite(value: Any, path: _Path) -> float:
    if not isinstance(value, float):
        raise NotJsonError(f"the value at {_dotted(path)} is a {type(value).__name__}, which JSON does not know")
    if not math.isfinite(value):
        raise NotJsonError(f"the number at {_dotted(path)} is NaN or infinite, which JSON does not know")
    return value
