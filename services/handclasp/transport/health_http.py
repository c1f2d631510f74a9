"""Health over plain HTTP, for probes that know neither gRPC nor TLS: `/livez` and `/readyz`."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Self

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, Route

Readiness = Callable[[], Awaitable[str | None]]
"""None if ready; else what is missing, in a few words that anybody may read."""


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
    Raises:
        OSError: on entering, if the port is taken.
    """

    def __init__(self, routes: Sequence[BaseRoute], *, host: str = "127.0.0.1", port: int) -> None:
        self._routes = routes
        self._host = host
        self._wanted_port = port
        self.port = port
        """The port; the chosen one once entered."""

    async def __aenter__(self) -> Self:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((self._host, self._wanted_port))
        except OSError:
            listener.close()
            raise
        self.port = listener.getsockname()[1]
        config = uvicorn.Config(
            Starlette(routes=self._routes),
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            limit_concurrency=100,
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
