"""The certificate service as one process or as several, as the settings say."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import structlog

from handclasp.certificate_service.data_folder import data_folder
from handclasp.certificate_service.main import Ports, serve, start_errors, utc_now
from handclasp.certificate_service.metrics import CERTIFICATE_METRICS
from handclasp.certificate_service.service import open_service
from handclasp.certificate_service.settings import CertificateServiceSettings
from handclasp.transport.health_http import health_server
from handclasp.transport.lifecycle import StopRequests
from handclasp.transport.ports import check_ports
from handclasp.transport.process import run_process, write_ready_file
from handclasp.transport.shared_ports import reserved_port
from handclasp.transport.worker import log_file_of
from handclasp.transport.worker_metrics import WorkerMetrics
from handclasp.transport.workers import Workers

_MODULE = "handclasp.certificate_service.worker"

_LOG = structlog.stdlib.get_logger(__name__)


async def serve_processes(settings: CertificateServiceSettings, ready: Callable[[Ports], None] | None = None) -> None:
    """Runs the service until SIGINT or SIGTERM.

    Args:
        ready: called once the service serves.

    Raises:
        StartError: it cannot start.
    """
    if settings.workers == 1:
        await serve(settings, ready=ready)
        return
    stop = StopRequests()
    with stop.on_signals(), start_errors(), data_folder(settings.data_dir) as lock:
        if settings.ready_file is not None:
            settings.ready_file.unlink(missing_ok=True)
        check_ports(settings.wanted_ports)
        # The schema, the CA and its keys are made once, before anybody else looks for them.
        async with open_service(settings, utc_now) as service:
            fingerprint = service.installation.root_fingerprint
        async with AsyncExitStack() as stack:
            await _run(settings, stop, stack, lock=lock, fingerprint=fingerprint, ready=ready)


async def _run(
    settings: CertificateServiceSettings,
    stop: StopRequests,
    stack: AsyncExitStack,
    *,
    lock: int,
    fingerprint: str,
    ready: Callable[[Ports], None] | None,
) -> None:
    tls_port = stack.enter_context(reserved_port(settings.host, settings.tls_port, setting="tls_port"))
    mtls_port = stack.enter_context(reserved_port(settings.host, settings.mtls_port, setting="mtls_port"))

    def of_worker(number: int, ready_file: Path) -> CertificateServiceSettings:
        own = {
            "workers": 1,
            "tls_port": tls_port,
            "mtls_port": mtls_port,
            "health_host": "127.0.0.1",
            "health_port": 0,
            "ready_file": ready_file,
            "log": settings.log.with_file(log_file_of(number, settings.log.file)),
        }
        return settings.model_copy(update=own)

    workers = Workers(_MODULE, of_worker, count=settings.workers, stop=stop, grace=settings.grace, lock=lock)
    metrics = WorkerMetrics(workers, CERTIFICATE_METRICS)
    http = await stack.enter_async_context(health_server(workers.missing, metrics.exposition, settings))
    await stack.enter_async_context(workers)
    if not await workers.wait_until_ready():
        return
    ports = Ports(tls=tls_port, mtls=mtls_port, health=http.port)
    _LOG.info(
        "workers_serve",
        workers=settings.workers,
        host=settings.host,
        tls_port=ports.tls,
        mtls_port=ports.mtls,
        health_port=ports.health,
        ca_fingerprint=fingerprint,
    )
    if ready is not None:
        ready(ports)
    if settings.ready_file is not None:
        content: dict[str, str | int | list[int]] = {
            "host": settings.host,
            "tls_port": ports.tls,
            "mtls_port": ports.mtls,
            "health_port": ports.health,
            "ca_fingerprint": fingerprint,
            "workers": list(workers.process_ids),
        }
        write_ready_file(settings.ready_file, content)
        stack.callback(settings.ready_file.unlink, missing_ok=True)
    await stop.wait()
    _LOG.info("stopping_workers", grace=settings.grace)


def run() -> None:
    """Runs the service with settings from the environment and the settings file, as a process of its own."""
    run_process(
        "handclasp certificates",
        CertificateServiceSettings,
        lambda: CertificateServiceSettings(),  # noqa: PLW0108 - a class with other arguments
        serve_processes,
    )
