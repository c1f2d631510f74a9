"""What the services that `up` starts say on standard error, and how their end is noticed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from handclasp.cli.pair import _Services
from handclasp.transport.lifecycle import StopRequests
from handclasp.transport.process import StartError, fault_prefix

FAULT = f"{fault_prefix('handclasp executions')}no luck"

# Leaves somebody behind who has its standard error.
SURVIVED = """
import pathlib, subprocess, sys
heir = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"], stdin=subprocess.DEVNULL)
pathlib.Path({heir!r}).write_text(str(heir.pid))
print({fault!r}, file=sys.stderr)
sys.exit(1)
"""

# Says more in a line than asyncio's streams take.
TALKATIVE = """
import sys
for _ in range(3):
    print("x" * 200_000, file=sys.stderr, flush=True)
print({fault!r}, file=sys.stderr)
sys.exit(1)
"""


@pytest.fixture
async def services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[_Services]:
    """Whose modules are those in the folder of the test."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    reading, writing = os.pipe()
    made = _Services(tmp_path, reading, StopRequests(), free_ports=True)
    yield made
    await made.stop()
    os.close(reading)
    os.close(writing)


async def test_a_service_that_ended_is_not_kept_by_what_it_started(services: _Services, tmp_path: Path) -> None:
    heir = tmp_path / "heir"
    (tmp_path / "survived.py").write_text(SURVIVED.format(heir=str(heir), fault=FAULT))
    try:
        with pytest.raises(StartError, match="the service executions cannot start: no luck"):
            async with asyncio.timeout(20):
                await services._spawn("executions", "survived", {})
    finally:
        os.kill(int(heir.read_text()), signal.SIGKILL)


async def test_a_service_that_says_a_lot_is_not_kept_waiting(
    services: _Services, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "talkative.py").write_text(TALKATIVE.format(fault=FAULT))
    with pytest.raises(StartError, match="the service executions cannot start: no luck"):
        async with asyncio.timeout(20):
            await services._spawn("executions", "talkative", {})
    assert capsys.readouterr().err == 3 * ("x" * 200_000 + "\n")


async def test_nor_is_it_if_nobody_hears_it(
    services: _Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    (tmp_path / "talkative.py").write_text(TALKATIVE.format(fault=FAULT))
    with monkeypatch.context() as patched, os.fdopen(writing, "w", buffering=1) as deaf:
        patched.setattr(sys, "stderr", deaf)
        with pytest.raises(StartError, match="the service executions cannot start: no luck"):
            async with asyncio.timeout(20):
                await services._spawn("executions", "talkative", {})
        with contextlib.suppress(OSError):
            deaf.close()


@pytest.mark.parametrize(
    ("number", "said"), [(signal.SIGKILL, "killed by SIGKILL"), (signal.SIGRTMIN + 5, "killed by signal ")]
)
async def test_a_service_that_a_signal_ended_is_told_of(
    services: _Services, tmp_path: Path, number: int, said: str
) -> None:
    (tmp_path / "killed.py").write_text(f"import os; os.kill(os.getpid(), {int(number)})")
    with pytest.raises(StartError, match=said):
        await services._spawn("executions", "killed", {})
