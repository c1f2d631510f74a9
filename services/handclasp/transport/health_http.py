"""Health and metrics over plain HTTP, for probes that know neither gRPC nor TLS: `/livez`, `/readyz`, `/metrics`."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Protocol, Self

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from handclasp.transport.metrics import Exposition, metrics_route
from handclasp.transport.process import port_taken

Readiness = Callable[[], Awaitable[str | None]]
"""None if ready; else what is missing, in a few words that anybody may read."""

_MOST_CONNECTIONS = 100

_numbers = itertools.count()


class HealthSettings(Protocol):
    """What settings of every service have."""

    @property
    def health_host(self) -> str: ...

    @property
    def health_port(self) -> int: ...


class _Connection(H11Protocol):
    """One that gives way: who connects and asks nothing must neither keep probes out nor use up the descriptors."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn's has it so
        super().connection_made(transport)
        self._number = next(_numbers)
        if len(self.connections) > _MOST_CONNECTIONS:
            idle = [one for one in self.connections if isinstance(one, _Connection) and one._is_idle()]
            oldest = min(idle, key=lambda one: one._number)
            # At once: what is aborted is still there until the event loop has its next turn.
            self.connections.discard(oldest)
            oldest.transport.abort()

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves signals to whoever runs the process."""
        yield


class HttpServer:
    """A Starlette application on a plain HTTP port, in the event loop of whoever enters it.

    It neither touches signals nor the logging configuration, and logs no requests.

    Args:
        routes: what to serve.
        host: address to listen on.
        port: port to listen on; 0 for any that is free.
        setting: the name of the setting that has the port, for the message.
    Raises:
        StartError: on entering, if the port is taken, or the address is not this machine's.
    """

    def __init__(self, routes: Sequence[BaseRoute], *, host: str, port: int, setting: str) -> None:
        self._routes = routes
        self._host = host
        self._wanted_port = port
        self._setting = setting
        self.port = port
        """The port; the chosen one once entered."""

    async def __aenter__(self) -> Self:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((self._host, self._wanted_port))
        except OSError as error:
            listener.close()
            raise port_taken(self._setting, self._host, self._wanted_port) from error
        self.port = listener.getsockname()[1]
        self.listener = listener
        config = uvicorn.Config(
            Starlette(routes=self._routes),
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            http=_Connection,
            ws="none",
            timeout_keep_alive=5,
            timeout_graceful_shutdown=2,
        )
        self._server = _Server(config)
        self._running = asyncio.create_task(self._server.serve(sockets=[listener]))
        while not (self._server.started or self._running.done()):  # noqa: ASYNC110 uvicorn has no event for it
            await asyncio.sleep(0.005)
        if self._running.done():
            await self._running
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        await self._running


def health_routes(readiness: Readiness) -> list[Route]:
    """`/livez`: the process answers. `/readyz`: 200 if it can do its work, else 503 with what is missing."""

    async def livez(_request: Request) -> JSONResponse:
        return JSONResponse({"status": "live"})

    async def readyz(_request: Request) -> JSONResponse:
        missing = await readiness()
        if missing is None:
            return JSONResponse({"status": "ready"})
        return JSONResponse({"status": "not ready", "missing": missing}, status_code=503)

    return [Route("/livez", livez), Route("/readyz", readyz)]


def health_server(readiness: Readiness, exposition: Exposition, settings: HealthSettings) -> HttpServer:
    """`health_routes` and `/metrics`, where the settings say."""
    routes = [*health_routes(readiness), metrics_route(exposition)]
    return HttpServer(routes, host=settings.health_host, port=settings.health_port, setting="health_port")
