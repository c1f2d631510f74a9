"""Integrations that hold up the event loop, or raise what ends processes: noticed, and no end of the server."""

from __future__ import annotations

import asyncio
import json
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from handclasp.client.client import HandclaspClient
from handclasp.client.context import load
from handclasp.errors import Aborted, HandclaspError
from handclasp.integrations.v1 import integration_service_pb2 as messages
from tests.e2e.processes import Pair, environment, running_up, wait_until

GRACE = 4.0

INTEGRATIONS = """
import asyncio, time
from pydantic import BaseModel
from handclasp.authoring import JsonObject, integration

class How(BaseModel):
    seconds: float = 0
    how: str = ""

def call(name):
    if name == "exit":
        raise SystemExit(3)
    if name == "interrupt":
        raise KeyboardInterrupt
    if name == "generator":
        raise GeneratorExit
    if name == "base":
        raise BaseException("of no kind")
    raise RuntimeError("fails")

@integration(name="tests.sleep", version="1.0.0", timeout=60)
async def sleep(value: How) -> JsonObject:
    time.sleep(value.seconds)
    return JsonObject()

@integration(name="tests.spin", version="1.0.0", timeout=60)
async def spin(value: How) -> JsonObject:
    end = time.monotonic() + value.seconds
    while time.monotonic() < end:
        pass
    return JsonObject()

@integration(name="tests.background", version="1.0.0", timeout=60)
async def background(value: How) -> JsonObject:
    async def task():
        time.sleep(value.seconds)
    tasks.append(asyncio.create_task(task()))
    await asyncio.sleep(0)
    return JsonObject()

@integration(name="tests.raise", version="1.0.0")
async def raises(value: How) -> JsonObject:
    call(value.how)

@integration(name="tests.later", version="1.0.0")
async def later(value: How) -> JsonObject:
    async def task():
        await asyncio.sleep(0.05)
        call(value.how)
    tasks.append(asyncio.create_task(task()))
    return JsonObject()

@integration(name="tests.callback", version="1.0.0")
async def callback(value: How) -> JsonObject:
    asyncio.get_running_loop().call_later(0.05, call, value.how)
    asyncio.get_running_loop().call_soon(call, value.how)
    return JsonObject()

tasks = []
"""


def start(folder: Path) -> Iterator[Pair]:
    integrations = folder / "integrations"
    integrations.mkdir()
    (integrations / "misbehaving.py").write_text(INTEGRATIONS, encoding="utf-8")
    variables = environment(
        HANDCLASP_EXECUTIONS_INTEGRATIONS_FOLDER=integrations,
        HANDCLASP_EXECUTIONS_BLOCKED_AFTER="0.5",
        HANDCLASP_EXECUTIONS_GRACE=str(GRACE),
    )
    with running_up(folder, variables=variables) as pair:
        yield pair


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    yield from start(tmp_path_factory.mktemp("misbehaving"))


@pytest.fixture
def own_pair(tmp_path: Path) -> Iterator[Pair]:
    yield from start(tmp_path)


async def run(pair: Pair, name: str, **how: object) -> str | HandclaspError:
    request = messages.ExecuteIntegrationRequest(name=f"integrations/{name}", input_json=json.dumps(how))
    async with HandclaspClient.from_context(load(pair.context_file)) as client:
        try:
            return (await client.integrations.ExecuteIntegration(request, timeout=30)).output_json
        except HandclaspError as error:
            return error


def log_lines(pair: Pair) -> list[str]:
    return (pair.data_dir / "logs" / "executions.log").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("how", ["exit", "interrupt", "generator", "base", "error"])
@pytest.mark.parametrize("name", ["tests.raise", "tests.later", "tests.callback"])
async def test_what_it_raises_ends_its_run_and_nothing_else(pair: Pair, name: str, how: str) -> None:
    process = pair.service("executions")
    outcome = await run(pair, name, how=how)
    if name == "tests.raise":
        assert isinstance(outcome, Aborted), outcome
        assert outcome.reason == "INTEGRATION_FAILED"
    else:
        assert outcome == "{}"
        await asyncio.sleep(0.2)
    assert await run(pair, "echo", alive=True) == '{"alive":true}'
    assert pair.service("executions") == process


def probe(pair: Pair, path: str) -> tuple[int, str]:
    port = json.loads((pair.data_dir / ".executions-ready.json").read_text(encoding="utf-8"))["health_port"]
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.mark.parametrize("name", ["tests.sleep", "tests.spin", "tests.background"])
async def test_a_blocked_loop_is_noticed(pair: Pair, name: str) -> None:
    await run(pair, "echo")
    assert (await asyncio.to_thread(probe, pair, "/livez"))[0] == 200
    before = len(log_lines(pair))
    blocking = asyncio.create_task(run(pair, name, seconds=4))
    for path in ("/livez", "/readyz", "/livez"):
        await asyncio.sleep(0.8)
        status, body = await asyncio.to_thread(probe, pair, path)
        assert (status, json.loads(body)["status"]) == (503, "blocked")
        assert f"integration {name}" in body
    assert await blocking == "{}"
    wait_until(lambda: any("loop_unblocked" in line for line in log_lines(pair)[before:]), "the end is logged")
    [blocked] = [line for line in log_lines(pair)[before:] if "loop_blocked" in line]
    assert f"integration={name} " in blocked
    assert "misbehaving.py:" in blocked
    assert (await asyncio.to_thread(probe, pair, "/livez"))[0] == 200
    _, metrics = await asyncio.to_thread(probe, pair, "/metrics")
    [count] = [
        line
        for line in metrics.splitlines()
        if line.startswith(f'handclasp_event_loop_blocks_total{{integration="{name}"}}')
    ]
    assert float(count.split()[1]) >= 1


@pytest.mark.parametrize("name", ["tests.sleep", "tests.spin"])
async def test_a_blocked_server_that_is_told_to_stop_does(own_pair: Pair, name: str) -> None:
    process = own_pair.service("executions")
    blocking = asyncio.create_task(run(own_pair, name, seconds=25))
    await asyncio.to_thread(
        wait_until, lambda: any("loop_blocked" in line for line in log_lines(own_pair)), "it is blocked"
    )
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    await asyncio.to_thread(process.wait, 15)
    assert time.monotonic() - began < 20, "not because the integration had ended"
    assert any("stopped_while_blocked" in line for line in log_lines(own_pair))
    assert isinstance(await blocking, HandclaspError)


async def test_a_second_signal_stops_a_blocked_server_at_once(own_pair: Pair) -> None:
    process = own_pair.service("executions")
    blocking = asyncio.create_task(run(own_pair, "tests.sleep", seconds=25))
    await asyncio.to_thread(
        wait_until, lambda: any("loop_blocked" in line for line in log_lines(own_pair)), "it is blocked"
    )
    for _ in range(2):
        process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.3)
    began = time.monotonic()
    await asyncio.to_thread(process.wait, 15)
    assert time.monotonic() - began < GRACE / 2, "the second signal was not heeded at once"
    assert isinstance(await blocking, HandclaspError)
