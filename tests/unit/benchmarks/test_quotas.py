"""Processes that are held to a share of a processor."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.benchmarks.quotas import QuotasUnavailableError, limited


def test_a_process_that_is_held_gets_no_more_than_its_share_and_is_let_go() -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        groups = Path(f"/proc/{busy.pid}/cgroup")
        try:
            with limited([busy.pid], 0.1):
                assert "handclasp-bench-" in groups.read_text()
                # However busy the machine is, and with what was left of a period when it began.
                assert _share(psutil.Process(busy.pid)) < 0.25
            assert "handclasp-bench-" not in groups.read_text()
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
