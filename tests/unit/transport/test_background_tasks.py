"""A service does not go on without one of its background tasks, whichever way that ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from structlog.testing import capture_logs

from handclasp.certificate_service.settings import CertificateServiceSettings
from handclasp.transport.lifecycle import ServiceFailedError, StopRequests
from handclasp.transport.process import run_process


async def fails() -> None:
    raise RuntimeError("a bug")


async def is_ended_as_if_cancelled() -> None:
    """As a call of gRPC's over a channel that is closed."""
    raise asyncio.CancelledError


async def goes_on() -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize("work", [fails, is_ended_as_if_cancelled])
async def test_one_that_ends_by_itself_is_a_request_to_stop(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    stop = StopRequests()
    with capture_logs() as logs:
        await asyncio.wait({stop.on_failure(asyncio.create_task(work(), name="the watch"))})
        await asyncio.sleep(0)
    assert stop.requested
    assert [(entry["event"], entry["task"]) for entry in logs] == [("background_task_failed", "the watch")]


async def test_two_that_fail_leave_running_calls_their_time() -> None:
    """The second failure, or one while the service stops, is not somebody who asks for a stop at once."""
    stop = StopRequests()
    failing = {stop.on_failure(asyncio.create_task(fails())) for _ in range(2)}
    await asyncio.wait(failing)
    await asyncio.sleep(0)
    at_once = asyncio.create_task(stop.wait_at_once())
    await asyncio.sleep(0)
    assert (stop.requested, at_once.done()) == (True, False)
    stop.request()
    await at_once


async def test_one_that_is_cancelled_is_not() -> None:
    stop = StopRequests()
    task = stop.on_failure(asyncio.create_task(goes_on()))
    await asyncio.sleep(0)
    task.cancel()
    with capture_logs() as logs:
        await asyncio.wait({task})
        await asyncio.sleep(0)
    assert (stop.requested, logs) == (False, [])


async def test_the_end_of_the_process_tells_that_one_failed() -> None:
    async def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        stop = StopRequests()
        with stop.on_signals():
            task = stop.on_failure(asyncio.create_task(work()))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait({task})
            await asyncio.sleep(0)

    await run(goes_on)
    with pytest.raises(ServiceFailedError):
        await run(fails)


def test_whoever_started_the_process_sees_it(capsys: pytest.CaptureFixture[str]) -> None:
    async def serve(_: CertificateServiceSettings) -> None:
        raise ServiceFailedError

    with pytest.raises(SystemExit) as ended:
        run_process("service", CertificateServiceSettings, lambda: CertificateServiceSettings(tls_port=0), serve)
    assert ended.value.code == 1
    assert (
        capsys.readouterr().err == "INTERNAL: service: stopped, since a part of it failed; the log says which and why\n"
    )
