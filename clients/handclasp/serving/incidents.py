"""Errors that nobody foresaw: the caller gets an id to quote, the log gets the exception."""

from __future__ import annotations

import secrets

import structlog

from handclasp.errors import Internal, Reason

_LOG = structlog.stdlib.get_logger(__name__)


def unforeseen(method: str, error: BaseException) -> Internal:
    """What the caller of a method is told of an exception, which goes into the log.

    Args:
        method: full name, for the log.
    """
    incident = secrets.token_hex(4)
    _LOG.error("unforeseen_error", method=method, incident=incident, exc_info=error)
    return Internal(
        Reason.INTERNAL,
        f"an error on the server; its log has the details under {incident}",
        metadata={"incident": incident},
    )
