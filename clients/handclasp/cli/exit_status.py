"""What the command says and returns when something is refused or goes wrong: one line, and an exit status."""

from __future__ import annotations

from handclasp.cli.text import one_line
from handclasp.errors import HandclaspError, InvalidArgument, NotFound, PermissionDenied, Reason, Unauthenticated

USAGE = 2

_STATUSES: dict[type[HandclaspError], int] = {
    PermissionDenied: 3,
    Unauthenticated: 3,
    NotFound: 4,
    InvalidArgument: 5,
}
_OTHER = 1


def exit_status(error: HandclaspError) -> int:
    """3 refused by permission or authentication, 4 not found, 5 invalid input, 1 anything else.

    A refused handshake counts as refused by authentication: the server saw what we presented and hung up, which it does
    for no other reason that is likely. A server that cannot be reached at all is "anything else".
    """
    if error.reason == Reason.HANDSHAKE_REFUSED:
        return 3
    return _STATUSES.get(type(error), _OTHER)


def error_line(error: HandclaspError) -> str:
    """The error as `REASON: what was wrong, what to do`, with the fields at fault and the decision's id folded in."""
    parts = [f"{error.reason}: {error.message}"]
    fields = [
        f"{violation.field}: {violation.description}"
        for violation in error.violations
        if violation.description not in error.message
    ]
    if fields:
        parts.append(f"; {'; '.join(fields)}")
    if error.retry_after is not None:
        parts.append(f" (worth trying again in {max(1, round(error.retry_after.total_seconds()))} s)")
    decision = error.metadata.get("decision", "").rpartition("/")[2]
    if decision and decision not in error.message:
        parts.append(f" (administrators see why: `handclasp explain {decision}`)")
    return one_line("".join(parts))
