"""Keeps an error within what a client takes as metadata.

By default gRPC refuses metadata beyond 16 KiB, and may from 8 KiB on; the client would then see that limit and not
the error.
"""

from __future__ import annotations

from datetime import timedelta
from functools import lru_cache

from handclasp.errors import FieldViolation, HandclaspError
from handclasp.errors.status import status_details

MAX_MESSAGE_BYTES = 1024
"""Of the status message as it goes over the wire: percent-encoded."""
MAX_DETAILS_BYTES = 4096
"""Of the serialized details. They go over the wire as base64, which adds a third."""

_ELLIPSIS = "…"


def fitting_message(error: HandclaspError) -> str:
    """The error's message, cut if it is too long."""
    return _cut(error.message, MAX_MESSAGE_BYTES)


def fitting_details(error: HandclaspError) -> bytes:
    """The error's details. Violations that do not fit are left out, and the last one says how many those are."""
    if error.metadata or error.violations:
        return _fitting_details(error)
    # mypy takes the hash of a class for that of its instances.
    return _details_of_reason(type(error), error.reason, error.message, error.retry_after)  # type: ignore[arg-type]


@lru_cache(maxsize=256)
def _details_of_reason(kind: type[HandclaspError], reason: str, message: str, retry_after: timedelta | None) -> bytes:
    """Of errors that have nothing of their own: a flood of refusals is one text, a thousand times."""
    return _fitting_details(kind(reason, message, retry_after=retry_after))


def _fitting_details(error: HandclaspError) -> bytes:
    kept = len(error.violations)
    details = status_details(_shortened(error, kept))
    while len(details) > MAX_DETAILS_BYTES and kept > 0:
        # Violations are of about equal size, so this takes a few rounds, not one for each.
        kept = min(kept - 1, kept * MAX_DETAILS_BYTES // len(details))
        details = status_details(_shortened(error, kept))
    return details


def _shortened(error: HandclaspError, kept: int) -> HandclaspError:
    violations = [
        FieldViolation(_cut(item.field, 512), _cut(item.description, 512)) for item in error.violations[:kept]
    ]
    left_out = len(error.violations) - kept
    if left_out:
        violations.append(FieldViolation("", f"and {left_out} more"))
    return type(error)(
        error.reason,
        fitting_message(error),
        metadata=error.metadata,
        violations=violations,
        retry_after=error.retry_after,
    )


def _cut(text: str, limit: int) -> str:
    if _wire_length(text) <= limit:
        return text
    room = limit - _wire_length(_ELLIPSIS)
    for end, character in enumerate(text):
        room -= _wire_length(character)
        if room < 0:
            return text[:end] + _ELLIPSIS
    return text


def _wire_length(text: str) -> int:
    """Bytes of a text as gRPC percent-encodes it: three for each byte that is not printable ASCII."""
    encoded = text.encode("utf-8", "replace")
    return sum(1 if 0x20 <= byte <= 0x7E and byte != 0x25 else 3 for byte in encoded)
