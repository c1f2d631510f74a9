"""What goes wrong between a relying party and the certificate service, told in the log; peers are told little."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

import grpc
import structlog

from handclasp.errors import HandclaspError, Reason, Unavailable
from handclasp.errors.status import from_rpc_error

Answer = TypeVar("Answer")

OWN_IDENTITY_REFUSED = frozenset({grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED})

_LOG = structlog.stdlib.get_logger(__name__)


_CHECK_IDENTITY = (
    "check that this server's own certificate is on file at the certificate service, neither revoked nor on "
    "hold nor expired, and that its user is active and holds AUTHORIZE_PEERS (profile relying-party) on what is "
    "asked about"
)
_CHECK_PORT = (
    "this is the certificate service's one-way TLS port, where nobody's certificate is looked at; use its mutual TLS "
    "port (8444 by default), of an execution server in the setting certificate_service"
)


class ConnectionReplacedError(Exception):
    """The connection that a call was made over was given up for another one."""

    def __init__(self) -> None:
        super().__init__("the connection was given up for another one while the call ran")


async def unless_replaced(call: Awaitable[Answer]) -> Answer:
    """Awaits a call over the link. If its channel is closed, gRPC ends it as if whoever awaits it had been cancelled;
    a background task would end of that, and nobody would know.

    Raises:
        ConnectionReplacedError: the channel was closed.
        grpc.aio.AioRpcError: as the call.
    """
    try:
        return await call
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise ConnectionReplacedError from None


def log_refused_identity(error: grpc.aio.AioRpcError) -> None:
    """The certificate service does not accept this relying party, or not for this."""
    refusal = from_rpc_error(error)
    _LOG.error(
        "own_identity_refused",
        status=error.code().name,
        details=error.details(),
        **{name: value for name, value in refusal.metadata.items() if name == "decision"},
        hint=_CHECK_PORT if refusal.reason == Reason.MUTUAL_TLS_REQUIRED else _CHECK_IDENTITY,
    )


def unanswered(error: grpc.aio.AioRpcError) -> HandclaspError:
    """The error that a peer gets for a question that was not answered."""
    refusal = from_rpc_error(error)
    if refusal.reason == Reason.PASSWORD_CHECKS_BUSY:
        # About the peer, and nobody else: too many passwords from its address wait to be checked.
        return refusal
    if error.code() in OWN_IDENTITY_REFUSED:
        log_refused_identity(error)
    else:
        _LOG.warning("certificate_service_not_asked", status=error.code().name, details=error.details())
    return not_asked()


def nonsense(what: str) -> Unavailable:
    """The error that a peer gets for an answer that answers something else."""
    _LOG.error("decision_makes_no_sense", answer=what, hint="check the version of the certificate service")
    return not_asked()


def not_asked() -> Unavailable:
    """Nobody can say now whether something is allowed, so it is not."""
    return Unavailable(
        Reason.AUTHORIZER_UNAVAILABLE,
        "whether this is allowed cannot be found out now; try again, and if it stays so tell whoever runs this server",
    )


def described(error: Exception) -> str:
    """A fault in a line for the log."""
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name}: {error.details()}"
    return str(error) or type(error).__name__
