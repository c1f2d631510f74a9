"""Other machines, set up with two commands each, and no file carried by hand."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from tests.e2e.processes import Deployment, Process, environment, free_port, run_command

# Several starts and stops of processes, on cores that may be busy with other tests.
pytestmark = pytest.mark.timeout(300)


def enroll(deployment: Deployment, machine: Path, *token: str) -> dict[str, str]:
    """Makes a token here, and types there what is said of it."""
    made = deployment.run("admin", "token", *token).json()
    machine.mkdir(exist_ok=True)
    enrolled = run_command(*shlex.split(made["command"])[1:], "-o", "json", folder=machine)
    again = run_command(*shlex.split(made["command"])[1:], "--out", "stolen", folder=machine)
    assert again.reason(3) == "ENROLLMENT_TOKEN_USED"
    answer: dict[str, str] = enrolled.json()
    return answer


def test_an_execution_server_and_a_partner(folder: Path) -> None:
    deployment = Deployment(folder)
    with deployment.certificates():
        deployment.run("user", "create", "execution-server", "--profile", "relying-party").json()
        there = folder / "there"
        enroll(deployment, there, "--user", "execution-server", "--server-name", "localhost")
        ready_file, port = there / "ready.json", free_port()
        files = there / "execution-server"
        arguments = ("--ca", files / "ca.pem", "--cert", files / "cert.pem", "--key", files / "key.pem")
        server = Process(
            "executions",
            *("serve", "executions", "--certificate-service", f"localhost:{deployment.ports['mtls']}", *arguments),
            *("--port", str(port), "--health-port", "0", "--ready-file", ready_file),
            folder=there,
            variables=environment(HANDCLASP_EXECUTIONS_LOG__FILE=there / "executions.log"),
        )
        with server:
            server.wait_for(ready_file)
            deployment.run("user", "create", "alice", "--profile", "regular-user").json()
            partner = folder / "partner"
            enroll(deployment, partner, "--user", "alice")
            context = partner / "alice" / "context.toml"
            echo = ("run", "echo", "--address", f"localhost:{port}", "--input", '{"hello": "world"}')
            assert run_command(*echo, folder=partner, context=context).json() == {"hello": "world"}
            # The context is one for the certificate service, too.
            listed = run_command("cert", "list", "-o", "json", folder=partner, context=context).json()
            assert [certificate["user"] for certificate in listed["certificates"]] == ["users/alice"]
            deployment.run("cert", "revoke", "--user", "alice", "--all").json()
            refused = run_command(*echo, folder=partner, context=context)
            assert refused.reason(3) == "CERTIFICATE_NOT_ACCEPTED"
