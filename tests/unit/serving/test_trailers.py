"""Errors that would not fit into metadata are cut, and stay errors."""

from __future__ import annotations

from google.rpc import error_details_pb2, status_pb2

from handclasp.errors import FieldViolation, InvalidArgument, Reason
from handclasp.serving.trailers import (
    MAX_DETAILS_BYTES,
    MAX_MESSAGE_BYTES,
    fitting_details,
    fitting_message,
)


def violations_in(details: bytes) -> list[FieldViolation]:
    request = error_details_pb2.BadRequest()
    for detail in status_pb2.Status.FromString(details).details:
        if detail.Unpack(request):
            return [FieldViolation(item.field, item.description) for item in request.field_violations]
    return []


def test_what_fits_is_left_alone() -> None:
    violations = [FieldViolation("a", "is wrong"), FieldViolation("b", "is missing")]
    error = InvalidArgument(Reason.INPUT_INVALID, "two fields", violations=violations)
    assert fitting_message(error) == "two fields"
    assert violations_in(fitting_details(error)) == violations


def test_many_violations_are_cut_and_counted() -> None:
    violations = [FieldViolation(f"lines.{number}", "is wrong") for number in range(1000)]
    details = fitting_details(InvalidArgument(Reason.INPUT_INVALID, "many", violations=violations))
    kept = violations_in(details)
    assert len(details) <= MAX_DETAILS_BYTES + 50
    assert kept[:-1] == violations[: len(kept) - 1]
    assert kept[-1].description == f"and {1000 - (len(kept) - 1)} more"
    assert len(kept) > 20


def test_a_message_is_cut_by_its_length_on_the_wire() -> None:
    message = fitting_message(InvalidArgument(Reason.INPUT_INVALID, "ü" * 1000))
    assert message.endswith("…")
    assert len(message.encode()) * 3 <= MAX_MESSAGE_BYTES
    assert len(message) > 100
