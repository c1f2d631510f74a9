"""`tools/demo.py`, which `make demo` runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.e2e.processes import environment, wait_until

# Several starts and stops of processes, on cores that may be busy with other tests.
pytestmark = pytest.mark.timeout(300)

DEMO = Path(__file__).parents[2] / "tools/demo.py"


def start(tmp_path: Path, **variables: str) -> subprocess.Popen[str]:
    # An installation of one's own, and a proxy, must not get in the way.
    more = {
        "TMPDIR": str(tmp_path),
        "HANDCLASP_CONTEXT": "/nonexistent",
        "HANDCLASP_CERTIFICATES_HOST": "192.0.2.1",
        "http_proxy": "http://127.0.0.1:9",
        "https_proxy": "http://127.0.0.1:9",
    }
    return subprocess.Popen(
        [sys.executable, DEMO],
        cwd=tmp_path,
        env=environment(**more | variables),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    )


def test_every_step_comes_out_as_it_must(tmp_path: Path) -> None:
    with start(tmp_path) as demo:
        said, _ = demo.communicate(timeout=100)
    assert demo.returncode == 0, said
    *steps, empty, summary = said.splitlines()
    assert len(steps) > 15
    assert all(step.startswith("✓ ") for step in steps), said
    assert sum("Refused" in step for step in steps) == 5
    assert (empty, summary.partition(",")[0]) == ("", "All as it must be")
    assert os.listdir(tmp_path) == []


def test_stopped_half_way_it_leaves_nothing_behind(tmp_path: Path) -> None:
    with start(tmp_path, PYTHONIOENCODING="ascii:replace") as demo:
        wait_until(lambda: bool(list(tmp_path.glob("*/data/logs/certificates.log"))), "the services start")
        left = psutil.Process(demo.pid).children(recursive=True)
        assert len(left) >= 2
        demo.send_signal(signal.SIGTERM)
        said, _ = demo.communicate(timeout=60)
    assert demo.returncode == 128 + signal.SIGTERM
    assert said.startswith("FAIL"), said
    assert psutil.wait_procs(left, 5)[1] == []
    assert os.listdir(tmp_path) == []


def test_a_step_that_fails_shows_the_logs(tmp_path: Path) -> None:
    # Nothing can be listened on at an address that is not this machine's.
    sitecustomize = tmp_path / "broken"
    sitecustomize.mkdir()
    (sitecustomize / "sitecustomize.py").write_text(
        "import os\nos.environ['HANDCLASP_CERTIFICATES_HOST'] = '192.0.2.1'\n"
    )
    with start(tmp_path, PYTHONPATH=str(sitecustomize)) as demo:
        said, _ = demo.communicate(timeout=100)
    assert demo.returncode == 1
    assert said.splitlines()[0].startswith("✗ Both services start")
    assert "cannot listen on 192.0.2.1" in said
    assert "The end of up.log:" in said
    assert os.listdir(tmp_path) == ["broken"]
