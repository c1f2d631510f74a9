"""The execution server's process: the one place that wires."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from typing import Any

# gRPC's core writes a line to standard error for each handshake that fails, which anybody can bring about. It reads
# this when it is first used.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

import grpc
import structlog
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from handclasp.errors import PermissionDenied, Reason, Unauthenticated
from handclasp.integration_execution.authorizer import RemoteAuthorizer
from handclasp.integration_execution.integration_service import SERVICE_NAME, IntegrationService
from handclasp.integration_execution.registry import IntegrationLoadError, Registry, find_integrations
from handclasp.integration_execution.runner import IntegrationRunner
from handclasp.integration_execution.settings import ExecutionSettings
from handclasp.integration_execution.trust import TrustBundleReader, TrustReloader
from handclasp.integrations.v1.integration_service_pb2_grpc import add_IntegrationServiceServicer_to_server
from handclasp.serving.files import SecretFileError, read_secret
from handclasp.serving.interceptor import CallInterceptor
from handclasp.serving.peer import Peer
from handclasp.serving.tls import (
    ReloadingCredentials,
    TlsIdentity,
    TlsMaterialError,
    compose_roots,
    static_credentials,
)
from handclasp.transport.health_http import HttpServer, health_routes
from handclasp.transport.lifecycle import StopRequests, run_until_stopped
from handclasp.transport.process import StartError, listen, port_taken, run_process, write_ready_file
from handclasp.transport.server import add_health_and_reflection, make_server, set_serving

_LOG = structlog.stdlib.get_logger(__name__)


async def serve(settings: ExecutionSettings, stop: StopRequests | None = None) -> None:
    """Runs the server until it is asked to stop; by SIGINT or SIGTERM if `stop` is not given.

    Waits for the certificate service before it listens.

    Raises:
        StartError: it cannot start.
    """
    if stop is not None:
        await _serve(settings, stop)
        return
    stop = StopRequests()
    with stop.on_signals():
        await _serve(settings, stop)


async def _serve(settings: ExecutionSettings, stop: StopRequests) -> None:
    if settings.ready_file is not None:
        settings.ready_file.unlink(missing_ok=True)
    registry = _load_registry(settings)
    identity = _read_identity(settings)
    async with AsyncExitStack() as stack:
        channel = await stack.enter_async_context(_channel(settings, identity))
        reader = TrustBundleReader(channel, timeout=settings.decision_timeout)
        roots_pem = await _unless_stopped(reader.read_at_start(), stop)
        if roots_pem is None:
            return
        reloader: TrustReloader | None = None
        if settings.reload_trust:
            reloading = ReloadingCredentials(identity, roots_pem)
            reloader = TrustReloader(reader, reloading, identity, roots_pem, interval=settings.reload_interval)
            credentials = reloading.credentials
        else:
            credentials = static_credentials(identity.key_pem, identity.chain_pem, roots_pem)

        async def missing() -> str | None:
            return "an answer of the certificate service" if reloader is not None and reloader.fault else None

        server = make_server(CallInterceptor(_admit), settings.limits)
        authorizer = RemoteAuthorizer(channel, timeout=settings.decision_timeout)
        add_IntegrationServiceServicer_to_server(IntegrationService(registry, authorizer, IntegrationRunner()), server)
        health = add_health_and_reflection(server, [SERVICE_NAME])
        port = listen(server, settings.host, settings.port, credentials, setting="port")
        try:
            http = HttpServer(health_routes(missing), host=settings.health_host, port=settings.health_port)
            await stack.enter_async_context(http)
        except OSError as error:
            raise port_taken("health_port", settings.health_host, settings.health_port) from error
        await server.start()
        await set_serving(health, [SERVICE_NAME], serving=True)
        if reloader is not None:
            following = asyncio.create_task(reloader.run(), name="trust bundle")
            stack.callback(stop.on_failure(following).cancel)
        if settings.ready_file is not None:
            write_ready_file(settings.ready_file, {"host": settings.host, "port": port, "health_port": http.port})
            stack.callback(settings.ready_file.unlink, missing_ok=True)
        _LOG.info("serving", host=settings.host, port=port, health_port=http.port, integrations=registry.names)
        await run_until_stopped([server], [health], stop, grace=settings.grace)


async def _admit(method: str, peer: Peer) -> None:
    """Whether a call is allowed depends on what it is about, so the methods of the one service that is served here ask
    by themselves, before anything else. Any other method is refused."""
    if not method.startswith(f"/{SERVICE_NAME}/"):
        raise PermissionDenied(Reason.ACCESS_DENIED, "nobody may call this method here")
    if peer.certificate_der is None:
        raise Unauthenticated(Reason.CREDENTIALS_MISSING, "call with a client certificate, over mutual TLS")


def _load_registry(settings: ExecutionSettings) -> Registry:
    try:
        return Registry(find_integrations(settings.integrations_folder), disabled=settings.disabled_integrations)
    except IntegrationLoadError as error:
        _LOG.error("integrations_not_loaded", exc_info=error)
        raise StartError(str(error)) from error


def _read_identity(settings: ExecutionSettings) -> TlsIdentity:
    try:
        identity = TlsIdentity(read_secret(settings.identity_key), settings.identity_cert.read_bytes())
        leaf = identity.check()
    except (SecretFileError, OSError) as error:
        raise StartError(str(error)) from error
    except TlsMaterialError as error:
        raise StartError(f"{settings.identity_cert} and {settings.identity_key}: {error}") from error
    _require_usages(leaf, settings)
    return identity


def _require_usages(leaf: x509.Certificate, settings: ExecutionSettings) -> None:
    """Without them the handshakes would fail, with a message that says little, and at the other end."""
    try:
        usages = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return
    except ValueError as error:
        raise StartError(f"{settings.identity_cert} has extensions that cannot be read; issue another one") from error
    for usage, name, advice in (
        (ExtendedKeyUsageOID.SERVER_AUTH, "serverAuth", "issue it with --server-name"),
        (ExtendedKeyUsageOID.CLIENT_AUTH, "clientAuth", "issue one that has both, with --server-name"),
    ):
        if usage not in usages and ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE not in usages:
            raise StartError(f"{settings.identity_cert}: identity_cert has no {name}; {advice}")


def _channel(settings: ExecutionSettings, identity: TlsIdentity) -> grpc.aio.Channel:
    try:
        ca_pem = compose_roots([settings.ca_file.read_bytes()])
    except OSError as error:
        raise StartError(f"{settings.ca_file} cannot be read: {error.strerror}; check the setting ca_file") from error
    except TlsMaterialError as error:
        raise StartError(f"{settings.ca_file}: {error}") from error
    credentials = grpc.ssl_channel_credentials(ca_pem, identity.key_pem, identity.chain_pem)
    options = [
        # A proxy that the environment names for the web knows nothing of addresses in here.
        ("grpc.enable_http_proxy", 0),
        # After an outage this server must be back soon; by default gRPC waits up to two minutes between attempts.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 1000),
        ("grpc.max_reconnect_backoff_ms", 1000),
        # A service that vanished without a word is noticed while questions to it are open.
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 5_000),
    ]
    return grpc.aio.secure_channel(settings.certificate_service, credentials, options=options)


async def _unless_stopped(coroutine: Coroutine[Any, Any, bytes], stop: StopRequests) -> bytes | None:
    """The coroutine's result, or None if a stop was asked for first."""
    working, stopping = asyncio.create_task(coroutine), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        working.cancel()
        stopping.cancel()


def run() -> None:
    """Runs the server with settings from the environment and the settings file, as a process of its own."""
    run_process(
        "handclasp executions",
        ExecutionSettings,
        lambda: ExecutionSettings(),  # noqa: PLW0108 - a class with other arguments
        serve,
    )
