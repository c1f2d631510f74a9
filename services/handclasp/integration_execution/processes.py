"""The execution server as one process or as several, as the settings say."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import structlog

from handclasp.integration_execution.main import serve
from handclasp.integration_execution.metrics import EXECUTION_METRICS
from handclasp.integration_execution.settings import ExecutionSettings
from handclasp.transport.health_http import health_server
from handclasp.transport.lifecycle import StopRequests
from handclasp.transport.process import run_process, write_ready_file
from handclasp.transport.shared_ports import reserved_port
from handclasp.transport.worker import log_file_of
from handclasp.transport.worker_metrics import WorkerMetrics
from handclasp.transport.workers import Workers

_MODULE = "handclasp.integration_execution.worker"

_LOG = structlog.stdlib.get_logger(__name__)


async def serve_processes(settings: ExecutionSettings) -> None:
    """Runs the server until SIGINT or SIGTERM.

    Raises:
        StartError: it cannot start.
    """
    if settings.workers == 1:
        await serve(settings)
        return
    stop = StopRequests()
    with stop.on_signals():
        if settings.ready_file is not None:
            settings.ready_file.unlink(missing_ok=True)
        async with AsyncExitStack() as stack:
            await _run(settings, stop, stack)


async def _run(settings: ExecutionSettings, stop: StopRequests, stack: AsyncExitStack) -> None:
    port = stack.enter_context(reserved_port(settings.host, settings.port, setting="port"))

    def of_worker(number: int, ready_file: Path) -> ExecutionSettings:
        own = {
            "workers": 1,
            "port": port,
            "health_host": "127.0.0.1",
            "health_port": 0,
            "ready_file": ready_file,
            "log": settings.log.with_file(log_file_of(number, settings.log.file)),
        }
        return settings.model_copy(update=own)

    workers = Workers(_MODULE, of_worker, count=settings.workers, stop=stop, grace=settings.grace)
    metrics = WorkerMetrics(workers, EXECUTION_METRICS)
    http = await stack.enter_async_context(health_server(workers.missing, metrics.exposition, settings))
    await stack.enter_async_context(workers)
    if not await workers.wait_until_ready():
        return
    _LOG.info("workers_serve", workers=settings.workers, host=settings.host, port=port, health_port=http.port)
    if settings.ready_file is not None:
        ports: dict[str, str | int | list[int]] = {"host": settings.host, "port": port, "health_port": http.port}
        write_ready_file(settings.ready_file, {**ports, "workers": list(workers.process_ids)})
        stack.callback(settings.ready_file.unlink, missing_ok=True)
    await stop.wait()
    _LOG.info("stopping_workers", grace=settings.grace)


def run() -> None:
    """Runs the server with settings from the environment and the settings file, as a process of its own."""
    run_process(
        "handclasp executions",
        ExecutionSettings,
        lambda: ExecutionSettings(),  # noqa: PLW0108 - a class with other arguments
        serve_processes,
    )
