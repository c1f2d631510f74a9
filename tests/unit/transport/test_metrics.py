"""`/metrics` itself: its text, and what asking for it costs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from prometheus_client.metrics_core import Metric as Family
from prometheus_client.parser import text_string_to_metric_families

from handclasp.serving.figures import Distribution
from handclasp.transport.health_http import HttpServer
from handclasp.transport.metric import counter, histogram
from handclasp.transport.metrics import Metrics, metrics_route

CALLS = counter("test_calls", "Calls.", ("how",))
SECONDS = histogram("test_seconds", "Times.", ("how",))


async def ask(port: int) -> tuple[bytes, str]:
    """Head and body of the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    return head, body.decode()


def samples(text: str) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_what_sources_tell_is_on_the_page() -> None:
    times = Distribution((1.0,))
    times.observe(0.5)
    times.observe(2.5)

    def tell() -> Iterable[Family]:
        yield CALLS.family([(("well",), 3), (("badly",), 0)])
        yield SECONDS.family([(("well",), times)])

    metrics = Metrics(tell)
    async with HttpServer([metrics_route(metrics.exposition)], host="127.0.0.1", port=0, setting="p") as server:
        head, text = await ask(server.port)
    assert b"content-type: text/plain; version=" in head
    assert samples(text) == {
        ("test_calls_total", "well"): 3,
        ("test_calls_total", "badly"): 0,
        ("test_seconds_bucket", "well", "1.0"): 1,
        ("test_seconds_bucket", "well", "+Inf"): 2,
        ("test_seconds_count", "well"): 2,
        ("test_seconds_sum", "well"): 3,
    }


async def test_however_many_ask_at_once_it_is_made_once() -> None:
    made = 0

    async def exposition() -> bytes:
        nonlocal made
        made += 1
        await asyncio.sleep(0.05)
        return b"# the same\n"

    async with HttpServer([metrics_route(exposition)], host="127.0.0.1", port=0, setting="p") as server:
        answers = await asyncio.gather(*(ask(server.port) for _ in range(50)))
        assert {text for _, text in answers} == {"# the same\n"}
        assert made == 1
        await asyncio.sleep(1.0)
        await ask(server.port)
        assert made == 2
