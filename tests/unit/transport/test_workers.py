"""The parent of workers: starts them, starts them again, and stops them. They are real processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import structlog

from handclasp.transport import workers as module
from handclasp.transport.lifecycle import StopRequests
from handclasp.transport.process import StartError
from handclasp.transport.workers import Workers
from tests.support.small_worker import SmallSettings

MODULE = "tests.support.small_worker"


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[3])
    monkeypatch.setattr(module, "FIRST_DELAY", 0.05)


def workers_of(folder: Path, stop: StopRequests, *, grace: float = 5.0, **more: Any) -> Workers:
    def settings(_: int, ready_file: Path) -> SmallSettings:
        return SmallSettings(folder / "told", ready_file, **more)

    return Workers(MODULE, settings, count=2, stop=stop, grace=grace)


def told(folder: Path) -> list[list[Any]]:
    return [json.loads(line) for line in (folder / "told").read_text().splitlines()]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_all_are_told_the_same_secret_and_who_ends_is_started_again(tmp_path: Path) -> None:
    with structlog.testing.capture_logs() as logs:
        async with workers_of(tmp_path, StopRequests()) as workers:
            assert await workers.wait_until_ready()
            first = list(workers.process_ids)
            os.kill(first[0], signal.SIGKILL)
            await until(lambda: len(told(tmp_path)) == 3)
            await until(lambda: len(workers.process_ids) == 2)
            assert workers.process_ids[1] == first[1]
            assert workers.process_ids[0] != first[0]
            # They have no health port here.
            assert "does not answer" in str(await workers.missing())
    assert sorted(number for number, _ in told(tmp_path)) == [1, 1, 2]
    assert len({secret for _, secret in told(tmp_path)}) == 1
    (ended,) = (entry for entry in logs if entry["event"] == "worker_ended")
    assert (ended["ended"], ended["status"], ended["retry_in"]) == (1, "killed by SIGKILL", 0.05)
    assert not workers.process_ids


async def test_one_that_ends_by_a_signal_without_a_name_is_started_again(tmp_path: Path) -> None:
    with structlog.testing.capture_logs() as logs:
        stop = StopRequests()
        async with workers_of(tmp_path, stop) as workers:
            assert await workers.wait_until_ready()
            os.kill(workers.process_ids[0], signal.SIGRTMIN + 6)
            await until(lambda: stop.requested or len(told(tmp_path)) == 3)
            assert not stop.requested, "the others would be stopped, too"
    (ended,) = (entry for entry in logs if entry["event"] == "worker_ended")
    assert ended["status"] == f"killed by signal {signal.SIGRTMIN + 6}"


async def test_each_time_it_takes_longer(tmp_path: Path) -> None:
    """A worker that ends as soon as it is started must not have the parent do nothing else."""
    with structlog.testing.capture_logs() as logs:
        async with workers_of(tmp_path, StopRequests()) as workers:
            assert await workers.wait_until_ready()
            for times in (1, 2, 3):
                os.kill(workers.process_ids[0], signal.SIGKILL)
                await until(lambda times=times: len(told(tmp_path)) == 2 + times)  # type: ignore[misc]
                await until(lambda: len(workers.process_ids) == 2)
    assert [entry["retry_in"] for entry in logs if entry["event"] == "worker_ended"] == [0.05, 0.1, 0.2]


async def test_one_that_cannot_start_ends_the_start(tmp_path: Path) -> None:
    async with workers_of(tmp_path, StopRequests(), fails=True) as workers:
        with pytest.raises(StartError, match="could not start"):
            await workers.wait_until_ready()


async def test_a_stop_before_they_are_ready(tmp_path: Path) -> None:
    stop = StopRequests()
    async with workers_of(tmp_path, stop) as workers:
        stop.request()
        assert not await workers.wait_until_ready()


async def test_impatience_is_passed_on(tmp_path: Path) -> None:
    stop = StopRequests()
    async with workers_of(tmp_path, stop, grace=60, ignores_stop=True) as workers:
        assert await workers.wait_until_ready()
        asyncio.get_running_loop().call_later(0.3, stop.request)
        stop.request()
        begin = time.monotonic()
    assert 0.2 < time.monotonic() - begin < 20


async def test_one_that_does_not_stop_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_STOP_MARGIN", 0.2)
    async with workers_of(tmp_path, StopRequests(), grace=0.2, ignores_stop=True) as workers:
        assert await workers.wait_until_ready()
    assert not workers.process_ids
