"""`python -m handclasp.integration_execution.conversion_process`: converts inputs and outputs, one at a time.

Its parent (`conversion_pool.py`) writes jobs to its standard input and reads replies from its standard output. It ends
when its parent does, and is ended by the kernel if a job takes too much of the processor's time.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import resource
import signal
import sys
import traceback
from pathlib import Path
from typing import Any, BinaryIO

from google.protobuf.message import DecodeError

from handclasp.errors import InvalidArgument
from handclasp.integration_execution.conversion import ModelFailedError, to_input, to_response
from handclasp.integration_execution.conversion_jobs import (
    LENGTH,
    InputJob,
    Outcome,
    OutputJob,
    Reply,
    Setup,
    models_digest,
)
from handclasp.integration_execution.payload import NotExactError
from handclasp.integration_execution.registry import AnyIntegration, Registry, find_integrations
from handclasp.integrations.v1 import integration_service_pb2 as messages

NICENESS = 10
"""Whoever waits for a large input waits a little longer, and everybody else does not wait for it."""

_PR_SET_PDEATHSIG = 1  # prctl(2)


def run() -> None:
    """Serves the process that started this one, until it closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    jobs, replies = _own_pipes()
    os.nice(NICENESS)
    _end_with_parent()
    setup: Setup = pickle.load(jobs)  # noqa: S301 from the process that started this one
    registry = Registry(find_integrations(setup.folder))
    digests: dict[tuple[str, str], bytes] = {}
    _limit_memory(setup.memory_bytes)
    _write(replies, b"")
    while length := jobs.read(LENGTH.size):
        job: Any = pickle.loads(jobs.read(LENGTH.unpack(length)[0]))  # noqa: S301
        # Of the processor's time, not the clock's: on a machine that is busy with other things a job is not to blame.
        # The signal's default action ends this process, wherever it is.
        signal.setitimer(signal.ITIMER_PROF, setup.processor_seconds)
        reply = pickle.dumps(_convert(registry, digests, job, setup.maximum_values))
        signal.setitimer(signal.ITIMER_PROF, 0)
        _write(replies, reply)


def _own_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Standard input and output, which nothing else then reads or writes: integrations may print."""
    jobs, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    return jobs, replies


def _end_with_parent() -> None:
    """Has the kernel end this process when its parent has died, in the middle of a job too. Linux only; elsewhere it
    ends after the job."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _limit_memory(more: int) -> None:
    """Lets this process have so many bytes more of addresses than it has now."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        pages = int(statm.read_text(encoding="ascii").split()[0])
        limit = pages * resource.getpagesize() + more
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _write(replies: BinaryIO, reply: bytes) -> None:
    replies.write(LENGTH.pack(len(reply)))
    replies.write(reply)
    replies.flush()


def _convert(
    registry: Registry, digests: dict[tuple[str, str], bytes], job: InputJob | OutputJob, maximum_values: int
) -> Reply:
    integration = registry.get(job.name, job.version)
    if integration is None:
        return Reply(Outcome.UNKNOWN)
    key = (job.name, job.version)
    if key not in digests:
        digests[key] = models_digest(integration)
    if digests[key] != job.models:
        return Reply(Outcome.UNKNOWN)
    try:
        return _input(integration, job, maximum_values) if isinstance(job, InputJob) else _output(integration, job)
    except MemoryError:
        return Reply(Outcome.TOO_MUCH)
    except ModelFailedError as error:
        if isinstance(error.__cause__, MemoryError):
            return Reply(Outcome.TOO_MUCH)
        return Reply(Outcome.FAILED, text="".join(traceback.format_exception(error.__cause__)))


def _input(integration: AnyIntegration, job: InputJob, maximum_values: int) -> Reply:
    try:
        request = messages.ExecuteIntegrationRequest.FromString(job.request)
        model = to_input(integration, request, maximum_values)
    except DecodeError:
        return Reply(Outcome.MALFORMED)
    except InvalidArgument as error:
        return Reply(Outcome.INVALID, violations=error.violations)
    try:
        return Reply(Outcome.DONE, pickle.dumps(model, pickle.HIGHEST_PROTOCOL))
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 models are the author's code, and so is what pickles them
        return Reply(Outcome.UNKNOWN)


def _output(integration: AnyIntegration, job: OutputJob) -> Reply:
    try:
        output = pickle.loads(job.output)  # noqa: S301
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001
        return Reply(Outcome.UNKNOWN)
    try:
        response = to_response(integration, output, as_json=job.as_json)
    except NotExactError as error:
        return Reply(Outcome.NOT_EXACT, text=str(error))
    return Reply(Outcome.DONE, response.SerializeToString())


if __name__ == "__main__":
    run()
