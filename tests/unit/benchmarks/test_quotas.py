"""Processes that are held to a share of a processor."""

from __future__ import annotations

import subprocess
import sys
import time

import psutil
import pytest

from tests.benchmarks.quotas import QuotasUnavailableError, limited


def test_a_process_that_is_held_gets_its_share_and_is_let_go() -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        try:
            process = psutil.Process(busy.pid)
            before = _share(process)
            with limited([busy.pid], 0.1):
                held = _share(process)
            assert 2 * held < before
            assert 1.5 * held < _share(process)
        except QuotasUnavailableError as error:
            pytest.skip(str(error))
        finally:
            busy.kill()


def _share(process: psutil.Process) -> float:
    """Of a processor, over a second."""
    before, begin = process.cpu_times(), time.monotonic()
    time.sleep(1)
    after = process.cpu_times()
    return float(after.user + after.system - before.user - before.system) / (time.monotonic() - begin)
