"""The attempts at one call, at one server or another: how long each may take, and what is to be made of how it ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import grpc
from grpc.aio import ClientCallDetails, UnaryUnaryCall

from handclasp.client.repeatable import already_gone, is_read, is_taking_away, may_be_repeated
from handclasp.client.retries import may_have_been_done, with_doubt
from handclasp.errors import DeadlineExceeded, HandclaspError, Reason, Unauthenticated, Unavailable

LONGEST_ATTEMPT = 5.0
"""Seconds until a call that may be repeated is, at another server."""

Method: TypeAlias = Callable[..., UnaryUnaryCall[Any, Any]]
FAILURES = (grpc.aio.AioRpcError, HandclaspError, asyncio.CancelledError, grpc.aio.UsageError)
"""How an attempt can end without an answer that is wanted."""

_LOST_STATUSES = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


class Attempts:
    """One call.

    Args:
        method: `/package.Service/Method`.
        servers: how to call it at each server.

    Attributes:
        repeatable: whether it does the same when it is made again.
        failure: what to raise if no attempt follows.
    """

    def __init__(self, method: str, servers: Sequence[Method], details: ClientCallDetails, request: Any) -> None:
        self.method = method
        self.repeatable = may_be_repeated(method, request)
        self.failure: BaseException = asyncio.CancelledError()
        self._servers = servers
        self._details = details
        self._request = request
        self._deadline = None if details.timeout is None else time.monotonic() + details.timeout
        self._lost: HandclaspError | None = None

    @property
    def left(self) -> float:
        """Seconds until it is given up."""
        return float("inf") if self._deadline is None else self._deadline - time.monotonic()

    @property
    def share(self) -> float:
        """Seconds after which another server is to be asked, whatever the first does. The rest is for the others."""
        longest = float("inf") if is_taking_away(self.method) else LONGEST_ATTEMPT
        return min(self.left / 2, longest)

    async def begin(self, index: int, *, hurried: bool = False) -> UnaryUnaryCall[Any, Any]:
        """Makes it at that server.

        Args:
            hurried: whether to leave time for others.

        Raises:
            BaseException: one of `FAILURES`.
        """
        timeout = min(self.left, self.share) if hurried else self.left
        call = self._servers[index](
            self._request,
            timeout=None if timeout == float("inf") else timeout,
            metadata=self._details.metadata,
            credentials=self._details.credentials,
            wait_for_ready=self._details.wait_for_ready,
        )
        await call
        return call

    def failed(self, error: BaseException, *, unanswered: bool = False) -> Any:
        """Says what follows from a failure.

        Args:
            error: one of `FAILURES`.
            unanswered: whether other attempts still are.

        Returns:
            None if another server can be asked; or an answer, if it is known from the failure.

        Raises:
            BaseException: this, or one that says that an earlier attempt may have been carried out.
        """
        if isinstance(error, grpc.aio.UsageError):
            # The channel was closed before the attempt; a call that is under way then ends like this.
            self.failure = asyncio.CancelledError()
            return None
        if unanswered and self._lost is None:
            self._lost = Unavailable(Reason.CONNECTION_LOST, "a server that was asked first has not answered")
        if self._lost is not None and isinstance(error, HandclaspError):
            gone = already_gone(self.method, error)
            if gone is not None:
                return gone
        self.failure = self._with_doubt(error)
        if not _is_lost(error):
            raise self.failure from error
        if not (self.repeatable or _nothing_was_done(error)) or self.left <= 0:
            raise self.failure from error
        return None

    def _with_doubt(self, error: BaseException) -> BaseException:
        """What comes after an attempt whose answer was lost must not sound as if nothing was done."""
        if is_read(self.method) or not isinstance(error, HandclaspError):
            return error
        said = with_doubt(error, self._lost)
        if self._lost is None and may_have_been_done(error):
            self._lost = error
        return said


def _is_lost(error: BaseException) -> bool:
    """Whether there was no answer. Else the server has refused, and another one would as well."""
    if isinstance(error, grpc.aio.AioRpcError):
        return error.code() in _LOST_STATUSES
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        # The channel was closed, to be replaced: it was not the caller who left.
        return task is not None and not task.cancelling()
    if isinstance(error, Unauthenticated):
        # Not what a server says, but what is thought here of its certificate.
        return error.reason == Reason.SERVER_CERTIFICATE_REFUSED
    return isinstance(error, Unavailable | DeadlineExceeded)


def _nothing_was_done(error: BaseException) -> bool:
    return isinstance(error, HandclaspError) and not may_have_been_done(error)
