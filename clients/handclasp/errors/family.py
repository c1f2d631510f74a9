"""One family of errors, a class for each kind. The kinds are gRPC's status codes; `status.py` has the table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from handclasp.errors.reasons import Reason


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One field that does not fit. `field` is a path as in `google.rpc.BadRequest`: `lines.3.price`."""

    field: str
    description: str


class HandclaspError(Exception):
    """A refusal, or a failure that was foreseen.

    Args:
        reason: stable, for programs. A `Reason`, or a string from a newer server that this code does not know.
        message: for people: what was wrong, then what to do. Never holds a secret; is shown to the caller.
        metadata: more for programs, such as `decision`.
        violations: the fields at fault.
        retry_after: how long to wait before it is worth trying again.
    """

    def __init__(
        self,
        reason: Reason | str,
        message: str,
        *,
        metadata: Mapping[str, str] | None = None,
        violations: Sequence[FieldViolation] = (),
        retry_after: timedelta | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = str(reason)
        self.message = message
        self.metadata = dict(metadata or {})
        self.violations = tuple(violations)
        self.retry_after = retry_after

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"


class InvalidArgument(HandclaspError):
    """What was sent does not fit, whatever the state of things. Sending it again will not help."""


class NotFound(HandclaspError):
    """What was named does not exist, or the caller may not see it."""


class AlreadyExists(HandclaspError):
    """What was to be made is there already."""


class FailedPrecondition(HandclaspError):
    """Things are not in a state for it."""


class Unauthenticated(HandclaspError):
    """Who the caller is could not be established."""


class PermissionDenied(HandclaspError):
    """The caller is known, and may not."""


class ResourceExhausted(HandclaspError):
    """Too much at once; `retry_after` says when to try again."""


class Unavailable(HandclaspError):
    """Something that is needed cannot be reached. Trying again may help."""


class Aborted(HandclaspError):
    """It was begun, and did not work out."""


class DeadlineExceeded(HandclaspError):
    """It took too long."""


class Unimplemented(HandclaspError):
    """The server does not have that method."""


class Internal(HandclaspError):
    """A bug. The server's log has the details."""


def invalid_field(field: str, description: str, reason: Reason = Reason.FIELD_INVALID) -> InvalidArgument:
    """The refusal of one field: `description` says what is wrong with it and what would fit."""
    return InvalidArgument(reason, f"{field}: {description}", violations=[FieldViolation(field, description)])
