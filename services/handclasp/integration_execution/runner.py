"""Runs an integration once: time limited, failures told apart."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import structlog
from pydantic import BaseModel

from handclasp.authoring import Integration
from handclasp.errors import Aborted, DeadlineExceeded, FailedPrecondition, Reason

TASK_PREFIX = "integration "
"""What the name of a task that runs an integration begins with; then comes the integration's."""

_LOG = structlog.stdlib.get_logger(__name__)


class IntegrationRunner:
    """Runs integrations, each in a task of its own.

    Args:
        patience: how many seconds a cancelled integration has to clean up before its caller is answered all the same.
    """

    def __init__(self, *, patience: float = 1.0) -> None:
        self._patience = patience
        # The event loop holds tasks weakly; those that were cancelled and still clean up must not vanish.
        self._running: set[asyncio.Task[BaseModel]] = set()

    async def run(self, integration: Integration[Any, Any], value: BaseModel) -> BaseModel:
        """Runs an integration on its validated input.

        If this is cancelled, because the caller left or its deadline passed, the integration is cancelled too.

        Raises:
            Aborted: INTEGRATION_FAILED; the traceback is in the log only.
            DeadlineExceeded: INTEGRATION_TIMED_OUT.
        """
        task = asyncio.create_task(_call(integration, value), name=f"{TASK_PREFIX}{integration.name}")
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        try:
            done, _ = await asyncio.wait({task}, timeout=integration.timeout.total_seconds())
        except asyncio.CancelledError:
            _cancel(task, integration)
            raise
        if not done:
            _cancel(task, integration)
            await asyncio.wait({task}, timeout=self._patience)
            raise DeadlineExceeded(
                Reason.INTEGRATION_TIMED_OUT,
                f"integration {integration.name} took longer than its {integration.timeout.total_seconds():g} s and "
                "was cancelled; give it less to do, or ask for a version with a longer timeout",
            )
        if task.cancelled():
            # Nobody asked for it: the integration let a CancelledError of its own out.
            raise failed(integration, asyncio.CancelledError("the integration cancelled itself"))
        error = task.exception()
        if error is not None:
            raise failed(integration, error)
        return task.result()


async def _call(integration: Integration[Any, Any], value: BaseModel) -> BaseModel:
    try:
        output: object = await integration(value)
    except (SystemExit, KeyboardInterrupt, GeneratorExit) as error:
        # In a task the first two would go past everything, and the last one says that somebody else ended it.
        raise RuntimeError(f"the integration raised {error!r}") from error
    if not isinstance(output, integration.output_type):
        raise TypeError(
            f"it returned a {type(output).__name__}, and not the {integration.output_type.__name__} it declares"
        )
    return cast("BaseModel", output)


def _cancel(task: asyncio.Task[BaseModel], integration: Integration[Any, Any]) -> None:
    def report(ended: asyncio.Task[BaseModel]) -> None:
        if not ended.cancelled() and (error := ended.exception()) is not None:
            _LOG.warning("integration_failed_after_cancellation", **_names(integration), exc_info=error)

    task.add_done_callback(report)
    task.cancel()


def require_enabled(integration: Integration[Any, Any]) -> None:
    """Raises FailedPrecondition (INTEGRATION_DISABLED) unless it can be run."""
    if not integration.enabled:
        raise FailedPrecondition(
            Reason.INTEGRATION_DISABLED,
            f"integration {integration.name} {integration.version} is disabled; ask whoever runs this server",
        )


def failed(integration: Integration[Any, Any], error: BaseException) -> Aborted:
    """The refusal of a call whose integration raised that; logs it."""
    _LOG.error("integration_failed", **_names(integration), exc_info=error)
    return Aborted(
        Reason.INTEGRATION_FAILED,
        f"integration {integration.name} {integration.version} failed; the server's log says why, ask whoever runs it",
    )


def _names(integration: Integration[Any, Any]) -> dict[str, str]:
    return {"integration": integration.name, "version": integration.version}
