"""Inputs and outputs of integrations: small ones are converted at once, others where it holds up nobody else."""

from __future__ import annotations

import asyncio
import pickle
from typing import Any

import structlog
from google.protobuf.message import DecodeError
from pydantic import BaseModel

from handclasp.authoring import Integration
from handclasp.errors import FailedPrecondition, FieldViolation, HandclaspError, InvalidArgument, Reason
from handclasp.integration_execution.conversion import (
    ModelFailedError,
    input_field,
    is_json,
    is_larger,
    to_input,
    to_response,
)
from handclasp.integration_execution.conversion_jobs import InputJob, Outcome, OutputJob, Reply, models_digest
from handclasp.integration_execution.conversion_pool import ConversionPool, InputLimits, unpickled
from handclasp.integration_execution.large_executions import ExecutionRequest, LargeExecution, parse_execution
from handclasp.integration_execution.payload import NotExactError, input_invalid
from handclasp.integration_execution.runner import failed
from handclasp.integrations.v1 import integration_service_pb2 as messages

THREAD_VALUES = 10_000
"""How many values an input may have whose model cannot go between processes. It is validated in a thread, which holds
the interpreter, and so the event loop, for up to a tenth of a second."""

_LOG = structlog.stdlib.get_logger(__name__)

AnyIntegration = Integration[Any, Any]


class Converter:
    """Converts for the event loop that it is used in.

    Args:
        pool: does what is not small.
    """

    def __init__(self, limits: InputLimits, pool: ConversionPool) -> None:
        self._limits = limits
        self._pool = pool
        self._digests: dict[tuple[str, str], bytes] = {}
        self._told: set[tuple[str, str]] = set()

    def parse(self, serialized: bytes) -> ExecutionRequest:
        """In place of the message's own parser; raises as `parse_execution`."""
        return parse_execution(serialized, self._limits.small_bytes)

    async def input(self, integration: AnyIntegration, request: ExecutionRequest, caller: str) -> BaseModel:
        """The validated input.

        Raises:
            InvalidArgument: INPUT_INVALID, with a violation for each field.
            Aborted: INTEGRATION_FAILED; a validator raised something else.
            ResourceExhausted: INPUTS_BUSY.
        """
        if not isinstance(request, LargeExecution):
            try:
                return to_input(integration, request, self._limits.maximum_input_values)
            except ModelFailedError as error:
                raise _failed(integration, error) from None
        job = InputJob(integration.name, integration.version, self._digest(integration), request.serialized)
        reply = await self._pool.convert(caller, job)
        if reply.outcome is Outcome.UNKNOWN:
            return await self._input_in_thread(integration, request)
        if reply.outcome is Outcome.DONE:
            model = await unpickled(reply.data)
            if isinstance(model, integration.input_type):
                return model  # type: ignore[no-any-return] # of the type that was asked for
            return await self._input_in_thread(integration, request)
        if reply.outcome is Outcome.TOO_MUCH:
            raise input_invalid(
                [
                    FieldViolation(
                        input_field(as_json=request.as_json),
                        f"takes more than {self._limits.processor_seconds:g} s, or "
                        f"{self._limits.memory_bytes // 2**20} MiB, to check; send it in parts",
                    )
                ]
            )
        raise _refusal(integration, reply)

    async def output(
        self, integration: AnyIntegration, request: ExecutionRequest, output: BaseModel, caller: str
    ) -> messages.ExecuteIntegrationResponse | bytes:
        """The response that has this output; serialized, if it is large.

        Raises:
            FailedPrecondition: OUTPUT_NOT_EXACT.
            Aborted: INTEGRATION_FAILED; it cannot be written.
        """
        as_json = request.as_json if isinstance(request, LargeExecution) else is_json(request)
        if not is_larger(output, self._limits.small_bytes):
            return _responded(integration, output, as_json=as_json)
        try:
            pickled = await asyncio.to_thread(pickle.dumps, output, pickle.HIGHEST_PROTOCOL)
        except Exception:  # noqa: BLE001 models are the author's code, and so is what pickles them
            reply = Reply(Outcome.UNKNOWN)
        else:
            digest = self._digest(integration)
            job = OutputJob(integration.name, integration.version, digest, pickled, as_json)
            reply = await self._pool.convert(caller, job)
        if reply.outcome is Outcome.DONE:
            return reply.data
        if reply.outcome is Outcome.UNKNOWN:
            self._tell(integration)
            return await asyncio.to_thread(_serialized, integration, output, as_json=as_json)
        if reply.outcome is Outcome.TOO_MUCH:
            raise failed(
                integration,
                ValueError(
                    f"its output takes more than {self._limits.processor_seconds:g} s, or "
                    f"{self._limits.memory_bytes // 2**20} MiB, to be written"
                ),
            )
        raise _refusal(integration, reply)

    def _digest(self, integration: AnyIntegration) -> bytes:
        key = (integration.name, integration.version)
        if key not in self._digests:
            self._digests[key] = models_digest(integration)
        return self._digests[key]

    async def _input_in_thread(self, integration: AnyIntegration, request: LargeExecution) -> BaseModel:
        self._tell(integration)
        most = min(THREAD_VALUES, self._limits.maximum_input_values)

        def convert() -> BaseModel:
            parsed = messages.ExecuteIntegrationRequest.FromString(request.serialized)
            return to_input(integration, parsed, most, " by this integration, whose models cannot be pickled")

        try:
            return await asyncio.to_thread(convert)
        except DecodeError:
            raise _malformed() from None
        except ModelFailedError as error:
            raise _failed(integration, error) from None

    def _tell(self, integration: AnyIntegration) -> None:
        """Logs once that an integration does without the processes."""
        key = (integration.name, integration.version)
        if key not in self._told:
            self._told.add(key)
            _LOG.warning("models_not_pickled", integration=integration.name, version=integration.version)


def _responded(integration: AnyIntegration, output: BaseModel, *, as_json: bool) -> messages.ExecuteIntegrationResponse:
    try:
        return to_response(integration, output, as_json=as_json)
    except NotExactError as error:
        raise _not_exact(str(error)) from None
    except ModelFailedError as error:
        raise _failed(integration, error) from None


def _serialized(integration: AnyIntegration, output: BaseModel, *, as_json: bool) -> bytes:
    return _responded(integration, output, as_json=as_json).SerializeToString()


def _failed(integration: AnyIntegration, error: ModelFailedError) -> HandclaspError:
    return failed(integration, error.__cause__ or error)


def _refusal(integration: AnyIntegration, reply: Reply) -> HandclaspError:
    """Of what did not become anything for a reason of its own."""
    if reply.outcome is Outcome.MALFORMED:
        return _malformed()
    if reply.outcome is Outcome.INVALID:
        return input_invalid(reply.violations)
    if reply.outcome is Outcome.NOT_EXACT:
        return _not_exact(reply.text)
    return failed(integration, ModelFailedError(f"in a conversion process:\n{reply.text}"))


def _malformed() -> InvalidArgument:
    return InvalidArgument(
        Reason.REQUEST_MALFORMED,
        "the request is not a protobuf message of this method's type; generate the client from the same protos",
    )


def _not_exact(fault: str) -> FailedPrecondition:
    return FailedPrecondition(
        Reason.OUTPUT_NOT_EXACT,
        f"a structure cannot hold the output: {fault}; send the input as `input_json`, and the output comes back as "
        "exact JSON text",
    )
