"""A call that is being handled, and how to end it from elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeAlias

import grpc
import structlog
from grpc.aio import AbortError

from handclasp.errors import HandclaspError
from handclasp.errors.status import DETAILS_KEY, status_code
from handclasp.serving.answer_gate import AnswerGate
from handclasp.serving.peer import Peer
from handclasp.serving.trailers import fitting_details, fitting_message

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

ABORT_TIMEOUT = 1.0
"""Seconds for sending the status before the handler is cancelled. For a client that does not read, it stays queued."""

_LOG = structlog.stdlib.get_logger(__name__)


class Call:
    """A call in progress. Made within the task that handles it.

    Attributes:
        method: `/package.Service/Method`.
        peer: who calls.
        caller: what `admit` returned.
        user: whom it is for, once that is known; for the log.
        gate: what its answers have to pass; None if nobody decided about it.
        withdrawn: what it is about to be ended with; nothing is answered any more.
        at_end: called with the call once its handler has returned or raised. One at most.
        finished: the handler has returned or raised.
        ended: the call was ended from elsewhere.
        ended_by: with what error.
    """

    __slots__ = (
        "_context",
        "_task",
        "at_end",
        "caller",
        "ended",
        "ended_by",
        "finished",
        "gate",
        "method",
        "peer",
        "user",
        "withdrawn",
    )

    def __init__(self, method: str, peer: Peer, context: Context) -> None:
        self.method = method
        self.peer = peer
        self.caller: object = None
        self.user = ""
        self.gate: AnswerGate | None = None
        self.withdrawn: HandclaspError | None = None
        self.at_end: Callable[[Call], None] | None = None
        self.finished = False
        self.ended = False
        self.ended_by: HandclaspError | None = None
        self._context: Context | None = context
        self._task = asyncio.current_task()

    def finish(self) -> None:
        """The handler has returned or raised; nothing is to be ended any more."""
        self.finished = True
        if self.at_end is not None:
            self.at_end(self)
        # The task's variables hold this call. Without this, all that gRPC has of it would stay until somebody collects
        # garbage.
        self._context = self._task = None

    async def end(self, error: HandclaspError) -> bool:
        """Ends the call with that error, whatever its handler does. To be called from another task.

        Returns:
            False if it had finished, or was ended before.
        """
        context, task = self._context, self._task
        if context is None or self.ended:
            return False
        self.ended = True
        self.ended_by = error
        trailer = ((DETAILS_KEY, fitting_details(error)),)
        try:
            # Cancelling alone would leave the client waiting until its deadline.
            async with asyncio.timeout(ABORT_TIMEOUT):
                await context.abort(status_code(error), fitting_message(error), trailing_metadata=trailer)
        except AbortError:
            pass
        except Exception as failure:  # noqa: BLE001 gRPC has many for a client that has just left; the call ends anyway
            _LOG.debug("status_not_sent", method=self.method, fault=repr(failure))
        finally:
            if task is not None:
                task.cancel()
        return True
