"""Does what the README says, to the letter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.processes import Pair, environment, running_up
from tests.support.leaks import Secrets
from tests.support.markdown import ROOT, fenced, indented, section
from tests.support.tools import require_tool

README = (ROOT / "README.md").read_text(encoding="utf-8")
FIRST, SECOND = indented(section(README, "A first certificate"))[1:3]
STUBS, CLIENT = fenced(section(README, "Calling it without the command"), "python")
AGAIN, TOOLS = indented(section(README, "Calling it without the command"))[:2]


def run(pair: Pair, script: str, *, path: str = "") -> subprocess.CompletedProcess[str]:
    """Runs lines of shell in the folder in which `handclasp up` was started."""
    folders = [path, str(Path(sys.executable).parent), os.environ["PATH"]]
    script = script.replace("localhost:8443", pair.ready["executions"])
    return subprocess.run(
        ["/bin/sh", "-e"],
        input=script,
        cwd=pair.folder,
        env=environment(PATH=os.pathsep.join(folder for folder in folders if folder)),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.fixture(scope="module")
def first_certificate(tmp_path_factory: pytest.TempPathFactory, secrets: Secrets) -> Iterator[Pair]:
    """A pair with alice's first certificate, made by the README's own lines."""
    folder = tmp_path_factory.mktemp("readme")
    with running_up(folder, data_dir=Path("handclasp-data")) as pair:
        assert pair.administrator_password is not None
        secrets.add_password(pair.administrator_password, "admin")
        done = run(pair, FIRST)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.splitlines()[-1] == '{"hello":"world"}'
        yield pair
        secrets.add_keys_below(folder)


def python(pair: Pair, script: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-", *arguments],
        input=script,
        cwd=pair.folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_example_with_generated_stubs_runs(first_certificate: Pair) -> None:
    address = first_certificate.ready["executions"]
    files = ("handclasp-data/ca.pem", "alice/cert.pem", "alice/key.pem")
    output = json.loads(python(first_certificate, STUBS, address, *files))
    (total,) = output["totals"]
    assert total == {"customer": "ACME", "currency": "EUR", "total": "20.29"} | total
    assert total["total"] == "20.29"


def test_the_example_with_the_client_runs(first_certificate: Pair) -> None:
    said = python(first_certificate, CLIENT, "handclasp-data/context.toml")
    assert said.splitlines() == ["STATE_ACTIVE", "USER_NOT_FOUND"]


@pytest.mark.parametrize("line", TOOLS.strip().split("\n\n"), ids=["grpcurl list", "grpcurl", "buf"])
def test_the_lines_for_other_tools_run(first_certificate: Pair, line: str) -> None:
    tool = require_tool(line.split(maxsplit=1)[0])
    done = run(first_certificate, line, path=str(Path(tool).parent))
    assert (done.returncode, done.stderr) == (0, "")
    expected = "handclasp.integrations.v1.IntegrationService" if line.endswith(" list") else '"hello": "world"'
    assert expected in done.stdout


def test_revocation_is_seen_by_the_next_call(first_certificate: Pair) -> None:
    # Another user's, since alice's certificate is for the other tests.
    script = f"{FIRST}\n{SECOND}".replace("alice", "alba")
    done = run(first_certificate, script)
    assert done.returncode == 3
    assert done.stderr.startswith("CERTIFICATE_NOT_ACCEPTED: ")
    assert len(done.stderr.splitlines()) == 1
    # A new certificate, and the call that was refused once more.
    echo = SECOND.strip().splitlines()[-1]
    context = FIRST.strip().splitlines()[0]
    done = run(first_certificate, f"{context}\n{AGAIN}\n{echo}".replace("alice", "alba"))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == '{"hello":"world"}'
