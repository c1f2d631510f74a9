"""The certificate service's process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

import grpc
import structlog
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from handclasp.accounts.v1 import account_service_pb2
from handclasp.accounts.v1.account_service_pb2_grpc import add_AccountServiceServicer_to_server
from handclasp.authorization.v1 import authorization_service_pb2
from handclasp.authorization.v1.authorization_service_pb2_grpc import add_AuthorizationServiceServicer_to_server
from handclasp.certificate_service.certificate_authority import InstallationError
from handclasp.certificate_service.certificate_counting import CertificateCounting
from handclasp.certificate_service.data_folder import DataFolderError, data_folder
from handclasp.certificate_service.first_start import write_ca_file
from handclasp.certificate_service.metrics import service_source
from handclasp.certificate_service.refusals_here import RefusalsHere
from handclasp.certificate_service.rpc.account_service import AccountService
from handclasp.certificate_service.rpc.admission import Admitter, call_kind
from handclasp.certificate_service.rpc.authorization_service import AuthorizationService
from handclasp.certificate_service.rpc.certificate_service import CertificateService, UseCases
from handclasp.certificate_service.service import Service, open_service
from handclasp.certificate_service.settings import CertificateServiceSettings
from handclasp.certificate_service.storage.database import storage_error
from handclasp.certificate_service.storage.enrollment_tokens import forget_tokens
from handclasp.certificate_service.storage.faults import database_fault
from handclasp.certificate_service.storage.migrate import OldVersionRunningError, SchemaTooNewError
from handclasp.certificate_service.storage.requests import forget_requests
from handclasp.certificate_service.use_cases.caller import Clock
from handclasp.certificate_service.use_cases.own_names import warn_of_names_elsewhere
from handclasp.certificates.v1 import certificate_service_pb2
from handclasp.certificates.v1.certificate_service_pb2_grpc import add_CertificateServiceServicer_to_server
from handclasp.errors import HandclaspError
from handclasp.serving.call_figures import CallFigures
from handclasp.serving.clock import lease_clock
from handclasp.serving.handshake_watch import current_handshake_watch
from handclasp.serving.interceptor import CallInterceptor
from handclasp.serving.refusal_log import set_up_refusal_log
from handclasp.serving.refused_handshakes import HandshakeRefusals
from handclasp.transport.file_descriptors import fitting
from handclasp.transport.health_http import health_server
from handclasp.transport.lifecycle import StopRequests, run_until_stopped
from handclasp.transport.listener_metrics import listener_source
from handclasp.transport.loop_lag import LoopLag
from handclasp.transport.metrics import Metrics
from handclasp.transport.ports import check_ports
from handclasp.transport.process import StartError, listen, write_ready_file
from handclasp.transport.process_metrics import process_source
from handclasp.transport.server import add_health_and_reflection, make_server, set_serving
from handclasp.transport.worker import Worker

_LOG = structlog.stdlib.get_logger(__name__)

SERVICE_NAMES = tuple(
    service.full_name
    for proto in (certificate_service_pb2, account_service_pb2, authorization_service_pb2)
    for service in proto.DESCRIPTOR.services_by_name.values()
)
_HOUSEKEEPING_INTERVAL = 3600.0


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Ports:
    """The ports that the service listens on."""

    tls: int
    mtls: int
    health: int


async def serve(
    settings: CertificateServiceSettings,
    stop: StopRequests | None = None,
    clock: Clock = utc_now,
    ready: Callable[[Ports], None] | None = None,
    worker: Worker | None = None,
    *,
    steady: Callable[[], float] = lease_clock,
) -> None:
    """Runs the service until it is asked to stop; by SIGINT or SIGTERM if `stop` is not given.

    Args:
        ready: called once the service serves.
        worker: if this process is one of several.
        steady: seconds on a clock that nobody sets, for how long those who guess have to wait.

    Raises:
        StartError: it cannot start.
    """
    if stop is None:
        stop = StopRequests()
        with stop.on_signals():
            await serve(settings, stop, clock, ready, worker, steady=steady)
        return
    with start_errors(), data_folder(settings.data_dir, inherited=None if worker is None else worker.lock):
        if settings.ready_file is not None:
            settings.ready_file.unlink(missing_ok=True)
        if worker is None:
            # Before a CA is made. The ports of workers are kept for them by their parent.
            check_ports(settings.wanted_ports)
        async with open_service(settings, clock, steady) as service:
            await warn_of_names_elsewhere(service.database, settings.server_names, clock)
            await _serve(service, stop, ready, worker)


@contextmanager
def start_errors() -> Iterator[None]:
    """Turns what keeps the service from starting, where that was foreseen, into StartError."""
    try:
        yield
    except (DataFolderError, InstallationError, SchemaTooNewError, OldVersionRunningError, HandclaspError) as error:
        raise StartError(str(error)) from error
    except SQLAlchemyError as error:
        raise StartError(database_fault(error)) from error


async def _serve(
    service: Service, stop: StopRequests, ready: Callable[[Ports], None] | None, worker: Worker | None
) -> None:
    settings = service.settings
    write_ca_file(settings.data_dir, service.installation)
    # Before anybody is granted a lease: whoever serves the database after this process waits for those.
    await service.coordination.replica.begin()
    refusals = set_up_refusal_log(settings.refusals)
    admit = Admitter(service.authenticator).admit
    interceptors: list[CallInterceptor] = []
    calls, lag = CallFigures(), LoopLag()
    metrics = Metrics(process_source(calls, lag))
    async with AsyncExitStack() as stack:
        stack.callback(refusals.close)
        here = RefusalsHere(service.refusal_records)
        stack.enter_context(refusals.observed_by(here.call))
        servers, healths = [], []
        ports: list[int] = []
        limits = fitting(settings.limits, listeners=2)
        for credentials, limited, port, setting in (
            (service.listeners.one_way.credentials, limits.of_anonymous(), settings.tls_port, "tls_port"),
            (service.listeners.mutual.credentials, limits, settings.mtls_port, "mtls_port"),
        ):
            interceptor = CallInterceptor(
                admit, storage_error, limits=settings.limits.of_calls(), kind_of=call_kind, observer=calls
            )
            interceptors.append(interceptor)
            server = make_server(interceptor, limited, shared_ports=worker is not None)
            # Known once all are open, which is before any of them is called.
            _add_services(server, service, mutual_tls_port=lambda: ports[1])
            healths.append(add_health_and_reflection(server, SERVICE_NAMES))
            ports.append(listen(server, settings.host, port, credentials, setting=setting))
            servers.append(server)
        for server, health in zip(servers, healths, strict=True):
            await server.start()
            await set_serving(health, SERVICE_NAMES, serving=True)
        readiness = partial(_missing, service, interceptors)
        http = await stack.enter_async_context(health_server(readiness, metrics.exposition, settings))
        handshakes = HandshakeRefusals(
            current_handshake_watch(),
            lambda: service.listeners.watched(settings.limits.handshake_timeout),
            refusals,
            here.handshake,
        )
        counting = CertificateCounting(service.database, service.clock)
        names = (listener.name for listener in service.listeners.watched(settings.limits.handshake_timeout))
        budgets = {name: interceptor.budgets for name, interceptor in zip(names, interceptors, strict=True)}
        metrics.add(listener_source(budgets, handshakes))
        metrics.add(service_source(service, counting))
        for name, task in (
            ("denials", service.denials.run()),
            ("records of refusals", service.refusal_records.run()),
            ("refused handshakes", handshakes.run()),
            ("server certificate", service.listeners.keep_certificate_fresh()),
            ("housekeeping", _housekeeping(service)),
            ("event loop lag", lag.run()),
            # Once for all workers.
            *([("count of certificates", counting.run())] if worker is None or worker.number == 1 else []),
            *service.coordination.background().items(),
        ):
            stack.callback(stop.on_failure(asyncio.create_task(task, name=name)).cancel)
        opened = Ports(tls=ports[0], mtls=ports[1], health=http.port)
        fingerprint = service.installation.root_fingerprint
        _LOG.info(
            "serving",
            host=settings.host,
            tls_port=opened.tls,
            mtls_port=opened.mtls,
            health_port=opened.health,
            ca_fingerprint=fingerprint,
        )
        if ready is not None:
            ready(opened)
        if settings.ready_file is not None:
            content: dict[str, str | int] = {
                "host": settings.host,
                "tls_port": opened.tls,
                "mtls_port": opened.mtls,
                "health_port": opened.health,
                "ca_fingerprint": fingerprint,
            }
            write_ready_file(settings.ready_file, content)
            stack.callback(settings.ready_file.unlink, missing_ok=True)
        await run_until_stopped(
            servers,
            healths,
            stop,
            grace=settings.grace,
            calls=[interceptor.draining for interceptor in interceptors],
            ports=ports,
            stopping=service.watching.stop,
        )


def _add_services(server: grpc.aio.Server, service: Service, *, mutual_tls_port: Callable[[], int]) -> None:
    """Adds all services to a listener; what is for mutual TLS only is up to `rpc/admission.py`."""
    use_cases = UseCases(
        issue=service.issue,
        renew=service.renew,
        upload=service.upload,
        enrollment_tokens=service.enrollment_tokens,
        enroll=service.enroll,
        enroll_replica=service.enroll_replica,
        certificates=service.certificates,
        check=service.check,
        anchors=service.anchors,
        bundle=service.bundle,
        chains=service.chains,
    )
    certificates = CertificateService(
        use_cases,
        trust_domain=service.installation.trust_domain,
        clock=service.clock,
        mutual_tls_port=mutual_tls_port,
    )
    add_CertificateServiceServicer_to_server(certificates, server)
    add_AccountServiceServicer_to_server(AccountService(service.users, service.profiles), server)
    authorization = AuthorizationService(
        service.explain, service.watching, service.list_refusals, service.report_refusals
    )
    add_AuthorizationServiceServicer_to_server(authorization, server)


async def _missing(service: Service, interceptors: Sequence[CallInterceptor]) -> str | None:
    for interceptor in interceptors:
        if exhausted := interceptor.budgets.exhausted():
            return exhausted
    try:
        await service.database.read(lambda snapshot: snapshot.fetch(select(1)))
    except SQLAlchemyError:
        return "the database"
    fault = service.database.writing.fault
    return None if fault is None else f"changes, since {fault}; decisions go on"


async def _housekeeping(service: Service) -> None:
    """Forgets old request ids, tokens that expired as long ago, and processes that are gone, until cancelled."""
    while True:
        before = service.clock() - service.settings.request_retention
        try:
            await service.database.write(partial(forget_requests, before=before))
            await service.database.write(partial(forget_tokens, before=before))
            await service.coordination.others.forget()
        except SQLAlchemyError as error:
            _LOG.warning("housekeeping_failed", error=type(error).__name__)
        await asyncio.sleep(_HOUSEKEEPING_INTERVAL)
