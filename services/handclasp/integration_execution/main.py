"""The execution server's process: the one place that wires."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import structlog

from handclasp.errors import PermissionDenied, Reason
from handclasp.integration_execution.blocking import integration_that_runs
from handclasp.integration_execution.conversion_pool import ConversionPool
from handclasp.integration_execution.converter import Converter
from handclasp.integration_execution.integration_service import SERVICE_NAME, IntegrationService
from handclasp.integration_execution.metrics import relying_party_source, watchdog_source
from handclasp.integration_execution.page_tokens import PageTokens
from handclasp.integration_execution.registry import IntegrationLoadError, Registry, find_integrations
from handclasp.integration_execution.runner import IntegrationRunner
from handclasp.integration_execution.settings import ExecutionSettings
from handclasp.relying_party import Options, RelyingParty
from handclasp.relying_party.decisions import Allowed
from handclasp.serving.call_budgets import CallBudgets
from handclasp.serving.call_figures import CallFigures
from handclasp.serving.files import SecretFileError
from handclasp.serving.handshake_watch import current_handshake_watch
from handclasp.serving.interceptor import OPEN_PREFIXES, Admit, CallInterceptor
from handclasp.serving.peer import Peer
from handclasp.serving.refusal_log import set_up_refusal_log
from handclasp.serving.refused_handshakes import HandshakeRefusals, WatchedListener
from handclasp.serving.tls import TlsMaterialError
from handclasp.transport.file_descriptors import fitting
from handclasp.transport.health_http import health_server
from handclasp.transport.lifecycle import StopRequests, run_until_stopped
from handclasp.transport.listener_metrics import listener_source
from handclasp.transport.loop_lag import LoopLag
from handclasp.transport.loop_watchdog import LoopWatchdog
from handclasp.transport.metrics import Metrics
from handclasp.transport.process import StartError, listen, write_ready_file
from handclasp.transport.process_metrics import process_source
from handclasp.transport.server import add_health_and_reflection, make_server, set_serving
from handclasp.transport.worker import Worker

_LOG = structlog.stdlib.get_logger(__name__)


async def serve(settings: ExecutionSettings, stop: StopRequests | None = None, worker: Worker | None = None) -> None:
    """Runs the server until it is asked to stop; by SIGINT or SIGTERM if `stop` is not given.

    Waits for the certificate service before it listens.

    Args:
        worker: if this process is one of several.
    Raises:
        StartError: it cannot start.
    """
    if stop is not None:
        await _serve(settings, stop, worker)
        return
    stop = StopRequests()
    with stop.on_signals():
        await _serve(settings, stop, worker)


async def _serve(settings: ExecutionSettings, stop: StopRequests, worker: Worker | None) -> None:
    if settings.ready_file is not None:
        settings.ready_file.unlink(missing_ok=True)
    registry = _load_registry(settings)
    relying_party: RelyingParty | None = None
    budgets: CallBudgets | None = None
    serving = False

    async def missing() -> str | None:
        if relying_party is None:
            return f"the certificate service, {settings.certificate_service}, which has not been reached yet"
        if not serving:
            return "the port, which is about to be opened"
        if not relying_party.ready:
            return "a lease of the certificate service"
        return None if budgets is None else budgets.exhausted()

    calls, lag = CallFigures(), LoopLag()
    metrics = Metrics(process_source(calls, lag))
    async with AsyncExitStack() as stack:
        # Before anything is waited for: whoever watches this process is to see that it lives, and what it lacks.
        http = await stack.enter_async_context(health_server(missing, metrics.exposition, settings))
        stack.callback(stop.on_failure(asyncio.create_task(lag.run(), name="event loop lag")).cancel)
        watchdog = LoopWatchdog(
            stop,
            limit=settings.blocked_after,
            grace=settings.grace,
            probes=http.listener,
            who_runs=lambda loop, stack: integration_that_runs(registry, loop, stack),
        )
        stack.enter_context(watchdog.watching())
        metrics.add(watchdog_source(watchdog))
        relying_party = await _relying_party(settings, stop, stack)
        if relying_party is None:
            return
        party = relying_party
        metrics.add(relying_party_source(party))
        refusals = set_up_refusal_log(settings.refusals)
        stack.callback(refusals.close)
        stack.enter_context(refusals.observed_by(party.reports.call))
        interceptor = CallInterceptor(
            _admitting(relying_party), limits=settings.limits.of_calls(reserved=False), observer=calls
        )
        budgets = interceptor.budgets
        server = make_server(interceptor, fitting(settings.limits, listeners=1), shared_ports=worker is not None)
        page_tokens = PageTokens(b"" if worker is None else worker.secret)
        pool = await stack.enter_async_context(ConversionPool(settings.inputs, settings.integrations_folder))
        converter = Converter(settings.inputs, pool)
        service = IntegrationService(registry, relying_party.authorizer, IntegrationRunner(), converter, page_tokens)
        service.add_to_server(server)
        health = add_health_and_reflection(server, [SERVICE_NAME])
        port = listen(server, settings.host, settings.port, relying_party.server_credentials(), setting="port")
        handshakes = HandshakeRefusals(
            current_handshake_watch(),
            lambda: [
                WatchedListener("executions", listener, settings.limits.handshake_timeout)
                for listener in party.listeners
            ],
            refusals,
            party.reports.handshake,
        )
        metrics.add(listener_source({"executions": budgets}, handshakes))
        stack.callback(stop.on_failure(asyncio.create_task(handshakes.run(), name="refused handshakes")).cancel)
        await server.start()
        await set_serving(health, [SERVICE_NAME], serving=True)
        serving = True
        if settings.ready_file is not None:
            write_ready_file(settings.ready_file, {"host": settings.host, "port": port, "health_port": http.port})
            stack.callback(settings.ready_file.unlink, missing_ok=True)
        _LOG.info("serving", host=settings.host, port=port, health_port=http.port, integrations=registry.names)
        await run_until_stopped(
            [server], [health], stop, grace=settings.grace, calls=[interceptor.draining], ports=[port]
        )


def _admitting(relying_party: RelyingParty) -> Admit:
    async def admit(method: str, peer: Peer) -> Allowed:
        """Lets in whose certificate is in force, before anything of their request is read. What a call is about decides
        whether it is allowed, so the methods of the one service here ask for that by themselves."""
        if not method.startswith((f"/{SERVICE_NAME}/", *OPEN_PREFIXES)):
            raise PermissionDenied(Reason.ACCESS_DENIED, "nobody may call this method here")
        return await relying_party.authorizer.authenticate(peer)

    return admit


def _load_registry(settings: ExecutionSettings) -> Registry:
    try:
        return Registry(find_integrations(settings.integrations_folder), disabled=settings.disabled_integrations)
    except IntegrationLoadError as error:
        if error.__cause__ is not None:
            # Where in somebody's code it is.
            _LOG.error("integrations_not_loaded", exc_info=error.__cause__)
        raise StartError(str(error)) from error


async def _relying_party(settings: ExecutionSettings, stop: StopRequests, stack: AsyncExitStack) -> RelyingParty | None:
    """What decides here, once it has reached the certificate service; None if a stop was asked for first."""
    relying_party = RelyingParty(
        settings.certificate_service,
        ca_file=settings.ca_file,
        certificate=settings.identity_cert,
        key=settings.identity_key,
        options=Options(
            decision_timeout=settings.decision_timeout,
            lease_wait=settings.lease_wait,
            lease_grace=settings.lease_grace,
            max_decisions=settings.max_decisions,
            renew_identity=settings.renew_identity,
        ),
    )
    entering = asyncio.create_task(stack.enter_async_context(relying_party))
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({entering, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not entering.done():
            return None
        entering.result()
    except (SecretFileError, TlsMaterialError) as error:
        raise StartError(
            f"{error}; the settings are identity_cert, identity_key and ca_file, and `handclasp enroll` makes the files"
        ) from error
    except OSError as error:
        raise StartError(
            f"{error.filename} cannot be read: {error.strerror}; check the setting that names it"
        ) from error
    finally:
        entering.cancel()
        stopping.cancel()
        # A start that was given up is to have cleaned up after itself.
        await asyncio.wait({entering, stopping})
    for task in relying_party.background:
        stop.on_failure(task)
    return relying_party
