"""Runs an integration once: input checked, time limited, failures told apart."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import structlog
from pydantic import BaseModel, ValidationError

from handclasp.authoring import Integration, JsonObject
from handclasp.errors import Aborted, DeadlineExceeded, FailedPrecondition, FieldViolation, Reason
from handclasp.integration_execution.payload import input_invalid

MAX_VIOLATIONS = 100
"""How many fields at fault a refusal names."""

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

    async def run(self, integration: Integration[Any, Any], value: dict[str, Any]) -> dict[str, Any]:
        """Runs an integration on plain JSON values and returns plain JSON values.

        If this is cancelled, because the caller left or its deadline passed, the integration is cancelled too.

        Raises:
            FailedPrecondition: INTEGRATION_DISABLED.
            InvalidArgument: INPUT_INVALID, with a violation for each field.
            Aborted: INTEGRATION_FAILED; the traceback is in the log only.
            DeadlineExceeded: INTEGRATION_TIMED_OUT.
        """
        if not integration.enabled:
            raise FailedPrecondition(
                Reason.INTEGRATION_DISABLED,
                f"integration {integration.name} {integration.version} is disabled; ask whoever runs this server",
            )
        return _dumped(integration, await self._output(integration, _validated(integration, value)))

    async def _output(self, integration: Integration[Any, Any], value: BaseModel) -> BaseModel:
        task = asyncio.create_task(_call(integration, value), name=f"integration {integration.name}")
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
            raise _failed(integration, asyncio.CancelledError("the integration cancelled itself"))
        error = task.exception()
        if error is not None:
            raise _failed(integration, error)
        return task.result()


async def _call(integration: Integration[Any, Any], value: BaseModel) -> BaseModel:
    try:
        output: object = await integration(value)
    except SystemExit as error:
        # In a task it would end the whole server.
        raise RuntimeError(f"the integration called sys.exit({error.code!r})") from error
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


def _validated(integration: Integration[Any, Any], value: dict[str, Any]) -> BaseModel:
    try:
        validated: BaseModel = integration.input_type.model_validate(value)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False, include_input=False)
        violations = [
            FieldViolation(".".join(str(part) for part in fault["loc"]), fault["msg"])
            for fault in faults[:MAX_VIOLATIONS]
        ]
        raise input_invalid(violations) from None
    except RecursionError:
        raise input_invalid([FieldViolation("", "is nested too deeply")]) from None
    except (Exception, SystemExit) as error:  # noqa: BLE001 a validator's bug; the server is not to end of it
        raise _failed(integration, error) from None
    return validated


def _dumped(integration: Integration[Any, Any], output: BaseModel) -> dict[str, Any]:
    if isinstance(output, JsonObject):
        return output.members
    try:
        dumped: object = output.model_dump(mode="json", by_alias=True)
    except Exception as error:  # noqa: BLE001 serializers are the integration's code too
        raise _failed(integration, error) from None
    if not isinstance(dumped, dict):
        raise _failed(
            integration, TypeError(f"its output is written as a {type(dumped).__name__}, and not as an object")
        )
    return dumped


def output_failed(integration: Integration[Any, Any], error: Exception) -> Aborted:
    """The refusal of an output that cannot be sent."""
    return _failed(integration, error)


def _failed(integration: Integration[Any, Any], error: BaseException) -> Aborted:
    _LOG.error("integration_failed", **_names(integration), exc_info=error)
    return Aborted(
        Reason.INTEGRATION_FAILED,
        f"integration {integration.name} {integration.version} failed; the server's log says why, ask whoever runs it",
    )


def _names(integration: Integration[Any, Any]) -> dict[str, str]:
    return {"integration": integration.name, "version": integration.version}
