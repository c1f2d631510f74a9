"""`/metrics`: what a process tells Prometheus. Beside `/livez` and `/readyz`, for whoever reaches that port."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeAlias

from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import Metric as Family
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from handclasp.transport.metric import Source

Exposition: TypeAlias = Callable[[], Awaitable[bytes]]
"""The text of all metrics by now."""

KEPT_SECONDS = 1.0
"""For so long the same text is given again: however often it is asked for, making it costs next to nothing."""


class Metrics:
    """The metrics of this process: whoever has something to tell adds itself."""

    def __init__(self, *sources: Source) -> None:
        self._sources = list(sources)

    def add(self, source: Source) -> None:
        """From now on that source is asked, too."""
        self._sources.append(source)

    def collect(self) -> Iterable[Family]:
        """All that there is to tell."""
        for source in self._sources:
            yield from source()

    async def exposition(self) -> bytes:
        """An `Exposition`. What is told is of one moment; making a text of it goes on beside the event loop."""
        return await asyncio.to_thread(as_text, list(self.collect()))


class _Collects:
    def __init__(self, families: Iterable[Family]) -> None:
        self._families = families

    def collect(self) -> Iterable[Family]:
        return self._families


def as_text(families: Iterable[Family]) -> bytes:
    """In Prometheus's text format."""
    return generate_latest(_Collects(families))


def metrics_route(exposition: Exposition) -> Route:
    """`/metrics`, made once in a while for however many ask."""
    text, made = b"", float("-inf")
    making = asyncio.Lock()

    async def metrics(_request: Request) -> Response:
        nonlocal text, made
        async with making:
            if time.monotonic() - made >= KEPT_SECONDS:
                text, made = await exposition(), time.monotonic()
        return Response(text, headers={"content-type": CONTENT_TYPE_LATEST})

    return Route("/metrics", metrics)
