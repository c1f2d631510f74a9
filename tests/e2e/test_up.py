"""`handclasp up`, from the first start to the end, however it comes."""

from __future__ import annotations

import os
import re
import signal
import socket
import stat
import subprocess
import tomllib
from pathlib import Path

import psutil
import pytest

from tests.e2e.processes import STOP_TIMEOUT, Pair, environment, run_command, running_up, start_up, wait_until
from tests.support.leaks import Secrets
from tests.support.tools import require_tool

# Several starts and stops of processes, on cores that may be busy with other tests.
pytestmark = pytest.mark.timeout(300)

PORTS = ("CERTIFICATES_TLS", "CERTIFICATES_MTLS", "CERTIFICATES_HEALTH", "EXECUTIONS", "EXECUTIONS_HEALTH")


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.glob("**/*")}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def processes_of(pair: Pair) -> list[psutil.Process]:
    parent = psutil.Process(pair.process.popen.pid)
    children: list[psutil.Process] = parent.children(recursive=True)
    assert {pair.service("certificates").pid, pair.service("executions").pid} <= {child.pid for child in children}
    return children


def test_starts_keeps_everything_and_stops(folder: Path, secrets: Secrets) -> None:
    home, temporary, here = (folder / name for name in ("home", "tmp", "here"))
    for made in (home, temporary, here):
        made.mkdir()
    variables = environment(HOME=home, TMPDIR=temporary, XDG_CONFIG_HOME=None, XDG_CACHE_HOME=None)

    with running_up(here, data_dir=Path("data"), variables=variables) as first:
        data = here / "data"
        assert first.administrator_password is not None
        secrets.add_password(first.administrator_password, "admin")
        assert set(first.ready) == {
            "certificates_tls",
            "certificates_mtls",
            "executions",
            "ca_file",
            "ca_fingerprint",
            "context_file",
        }
        assert first.ready["context_file"] == str(data / "context.toml")
        assert first.ready["ca_fingerprint"] in first.process.out
        assert first.process.errors == ""
        # Nothing anywhere but in the data folder, and the ready file.
        assert (tree(home), tree(temporary)) == (set(), set())
        own = {"data", "ready.json", "up.out", "up.err"}
        assert {name for name in tree(here) if not name.startswith("data/")} == own

        assert mode(data) == 0o700
        assert mode(data / "context.toml") == 0o600
        keys = [*data.glob("keys/*.pem"), *data.glob("identities/**/key.pem")]
        assert len(keys) == 4
        assert {mode(key) for key in keys} == {0o600}
        assert {mode(log) for log in data.glob("logs/*")} == {0o600}
        context = tomllib.loads((data / "context.toml").read_text())
        assert set(context) == {*first.ready.keys() - {"ca_fingerprint", "context_file"}, "certificate", "key"}

        first.json("user", "create", "alice", "--profile", "regular-user")
        issued = first.json("cert", "issue", "--user", "alice", "--out", "alice")
        left = processes_of(first)
        assert first.process.stop(signal.SIGINT) == 0
    assert psutil.wait_procs(left, 1)[1] == []
    assert not first.ready_file.exists()
    assert not list(data.glob(".*-ready.json"))

    with running_up(here, data_dir=data, variables=variables) as second:
        assert second.administrator_password is None
        assert second.ready["ca_fingerprint"] == first.ready["ca_fingerprint"]
        assert second.json("user", "show", "alice")["state"] == "STATE_ACTIVE"
        assert second.json("cert", "show", issued["id"])["pem"] == (here / "alice/cert.pem").read_text()
        ran = second.run("run", "echo", "--cert", here / "alice/cert.pem", "--key", here / "alice/key.pem")
        assert ran.json() == {}

        # A third one at the same time, on the same folder.
        refused = run_command("up", "--data-dir", data, "--free-ports", folder=folder)
        assert refused.reason(1) == "START_NOT_POSSIBLE"
        assert f"{data} is in use by another process" in refused.errors
        assert second.run("run", "echo").json() == {}
        left = processes_of(second)
        assert second.process.stop(signal.SIGTERM) == 0
    assert psutil.wait_procs(left, 1)[1] == []
    assert (tree(home), tree(temporary)) == (set(), set())


def test_without_the_execution_server_s_user_the_way_out_is_told(folder: Path) -> None:
    with running_up(folder) as pair:
        pair.json("user", "disable", "execution-server")
        assert pair.process.stop(signal.SIGTERM) == 0
    refused = run_command("up", "--data-dir", "data", "--free-ports", folder=folder)
    assert refused.reason(1) == "START_NOT_POSSIBLE"
    assert f"`handclasp serve certificates --data-dir {folder / 'data'}`" in refused.errors
    assert "`handclasp user enable execution-server`" in refused.errors


def test_a_ready_file_that_cannot_be_written_is_told_before_anything_is_made(folder: Path) -> None:
    refused = run_command("up", "--free-ports", "--ready-file", folder / "no" / "ready.json", folder=folder)
    assert refused.reason(1) == "START_NOT_POSSIBLE"
    assert "ready.json cannot be written: No such file or directory" in refused.errors
    assert not (folder / "handclasp-data").exists()


@pytest.mark.parametrize(("name", "setting"), [("certificates", "MTLS"), ("executions", "HEALTH")])
def test_a_port_that_is_taken_is_told_in_a_line(folder: Path, name: str, setting: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        free = dict.fromkeys((f"HANDCLASP_{setting}_PORT" for setting in PORTS), 0)
        variables = environment(**free | {f"HANDCLASP_{name.upper()}_{setting}_PORT": port})
        refused = run_command("up", "--data-dir", "data", folder=folder, variables=variables)
    assert refused.status == 1
    assert re.fullmatch(
        rf"START_NOT_POSSIBLE: the service {name} cannot start: cannot listen on 127\.0\.0\.1 port {port}: "
        r"another process has it,.*`handclasp up --free-ports` takes .*\n",
        refused.errors,
    )
    assert refused.out == ""
    assert not (folder / "data").exists()


def test_the_services_end_with_a_parent_that_is_killed(folder: Path) -> None:
    with running_up(folder) as pair:
        left = processes_of(pair)
        pair.process.kill()
        assert psutil.wait_procs(left, STOP_TIMEOUT)[1] == []


@pytest.mark.parametrize("name", ["certificates", "executions"])
def test_a_service_that_ends_by_itself_ends_the_pair(folder: Path, name: str) -> None:
    with running_up(folder) as pair:
        left = processes_of(pair)
        pair.service(name).kill()
        assert pair.process.wait() == 1
        assert psutil.wait_procs(left, 1)[1] == []
        assert re.fullmatch(rf"START_NOT_POSSIBLE: the service {name} .*SIGKILL.*\n", pair.process.errors)
        assert not pair.ready_file.exists()


def test_stopped_while_it_starts(folder: Path) -> None:
    with start_up(folder) as process:
        wait_until((folder / "data/logs/certificates.log").exists, "the certificate service starts")
        children = psutil.Process(process.popen.pid).children(recursive=True)
        assert process.stop(signal.SIGINT) == 0
    assert psutil.wait_procs(children, 1)[1] == []
    assert not (folder / "ready.json").exists()


@pytest.mark.parametrize("tool", ["handclasp", "grpcurl", "buf"])
def test_what_is_printed_can_be_pasted(pair: Pair, tool: str) -> None:
    found = require_tool(tool)
    lines = [line.strip() for line in pair.process.out.splitlines() if line.startswith("  ")]
    pasted = [line for line in lines if line.startswith(("export ", tool))]
    assert len(pasted) == 2
    path = os.pathsep.join([str(Path(found).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["/bin/sh", "-e"],
        input="\n".join(pasted),
        env=environment(PATH=path),
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert '"hello":"world"' in re.sub(r"\s", "", done.stdout)
