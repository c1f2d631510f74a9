"""ExecuteIntegration as bytes: small requests are parsed at once, large ones where it holds up nobody else.

Of a large one, only what is needed to decide about the call is read here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from google.protobuf.message import DecodeError

from handclasp.errors import InvalidArgument, Reason
from handclasp.integrations.v1 import integration_service_pb2 as messages

MOST_BESIDE_INPUT = 16 * 1024
MOST_FIELDS = 64
"""Bytes and fields that a large request may have beside its input: it has need of a name and a version."""

_INPUT = messages.ExecuteIntegrationRequest.INPUT_FIELD_NUMBER
_INPUT_JSON = messages.ExecuteIntegrationRequest.INPUT_JSON_FIELD_NUMBER
_LONGEST_VARINT = 10


@dataclass(frozen=True, slots=True)
class LargeExecution:
    """A request whose input has not been parsed.

    Attributes:
        as_json: whether the input is JSON text.
        serialized: all of the request.
    """

    name: str
    version: str
    as_json: bool
    serialized: bytes


ExecutionRequest: TypeAlias = messages.ExecuteIntegrationRequest | LargeExecution


def parse_execution(serialized: bytes, small: int) -> ExecutionRequest:
    """A request, parsed if it has no more than `small` bytes.

    Raises:
        DecodeError: it is no such message.
        InvalidArgument: REQUEST_MALFORMED; there is too much in it beside its input.
    """
    if len(serialized) <= small:
        return messages.ExecuteIntegrationRequest.FromString(serialized)
    beside = bytearray()
    as_json = False
    position = fields = 0
    while position < len(serialized):
        start = position
        number, position = _field(serialized, position)
        fields += 1
        if number in {_INPUT, _INPUT_JSON}:
            as_json = number == _INPUT_JSON
        else:
            beside += serialized[start:position]
        if fields > MOST_FIELDS or len(beside) > MOST_BESIDE_INPUT:
            raise InvalidArgument(
                Reason.REQUEST_MALFORMED,
                f"the request has more than {MOST_FIELDS} fields, or {MOST_BESIDE_INPUT} bytes beside its input; send "
                "a name, a version and one input",
            )
    head = messages.ExecuteIntegrationRequest.FromString(bytes(beside))
    return LargeExecution(head.name, head.version, as_json, serialized)


def _field(data: bytes, position: int) -> tuple[int, int]:
    """The number of the field that begins there, and where it ends.

    Source: https://protobuf.dev/programming-guides/encoding/. Groups are deprecated, and not taken here.
    """
    key, position = _varint(data, position)
    number, wire_type = key >> 3, key & 7
    if wire_type == 0:
        _, position = _varint(data, position)
    elif wire_type == 1:
        position += 8
    elif wire_type == 2:
        length, position = _varint(data, position)
        position += length
    elif wire_type == 5:
        position += 4
    else:
        raise DecodeError(f"wire type {wire_type}")
    if position > len(data):
        raise DecodeError("truncated")
    if number in {_INPUT, _INPUT_JSON} and wire_type != 2:
        raise DecodeError(f"field {number} has wire type {wire_type}")
    return number, position


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for index, byte in enumerate(data[position : position + _LONGEST_VARINT]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, position + index + 1
    raise DecodeError("a number without an end")
