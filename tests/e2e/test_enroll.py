"""Other machines, set up with two commands each, and no file carried by hand."""

from __future__ import annotations

import json
import shlex
import tomllib
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.processes import Deployment, Finished, Process, environment, free_port, run_command
from tests.support.postgres import PostgresServer

# Several starts and stops of processes, on cores that may be busy with other tests.
pytestmark = pytest.mark.timeout(300)

HELLO = '{"hello": "world"}'


def enroll(deployment: Deployment, machine: Path, *token: str) -> dict[str, Any]:
    """Makes a token here, and types there what is said of it."""
    made = deployment.run("admin", "token", *token).json()
    machine.mkdir(exist_ok=True)
    command = shlex.split(made["command"])[1:]
    enrolled = run_command(*command, "-o", "json", folder=machine, given=made["token"])
    stolen = run_command(*command, "--out", "stolen", folder=machine, given=made["token"])
    assert stolen.reason(3) == "ENROLLMENT_TOKEN_USED"
    return enrolled.json()


def execution_server(deployment: Deployment, machine: Path, user: str, port: int) -> Process:
    """Started with the files that enrolling wrote, towards that deployment."""
    files, ready_file = machine / user, machine / f"{user}-ready.json"
    process = Process(
        user,
        *("serve", "executions", "--certificate-service", f"localhost:{deployment.ports['mtls']}"),
        *("--ca", files / "ca.pem", "--cert", files / "cert.pem", "--key", files / "key.pem"),
        *("--port", str(port), "--health-port", "0", "--ready-file", ready_file),
        folder=machine,
        variables=environment(HANDCLASP_EXECUTIONS_LOG__FILE=machine / f"{user}.log"),
    )
    process.wait_for(ready_file)
    return process


def echo(machine: Path, context: Path, port: int) -> Finished:
    arguments = ("run", "echo", "--address", f"localhost:{port}", "--input", HELLO)
    return run_command(*arguments, folder=machine, context=context)


def test_an_execution_server_and_a_partner(folder: Path) -> None:
    deployment, port = Deployment(folder), free_port()
    with deployment.certificates():
        deployment.run("user", "create", "execution-server", "--profile", "relying-party").json()
        there = folder / "there"
        enroll(deployment, there, "--user", "execution-server", "--server-name", "localhost")
        with execution_server(deployment, there, "execution-server", port):
            deployment.run("user", "create", "alice", "--profile", "regular-user").json()
            partner = folder / "partner"
            enroll(deployment, partner, "--user", "alice")
            context = partner / "alice" / "context.toml"
            assert tomllib.loads(context.read_text())["certificates_mtls"] == f"localhost:{deployment.ports['mtls']}"
            assert echo(partner, context, port).json() == json.loads(HELLO)
            # The context is one for the certificate service, too.
            listed = run_command("cert", "list", "-o", "json", folder=partner, context=context).json()
            assert [certificate["user"] for certificate in listed["certificates"]] == ["users/alice"]
            deployment.run("cert", "revoke", "--user", "alice", "--all").json()
            assert echo(partner, context, port).reason(3) == "CERTIFICATE_NOT_ACCEPTED"


def test_a_second_replica(folder: Path, postgres: PostgresServer) -> None:
    """What either issues is good at servers that ask the other, and revoked at one it is revoked at both."""
    with ExitStack() as stack:
        url = stack.enter_context(postgres.database())
        one, other = Deployment(folder / "one", url), Deployment(folder / "other", url)
        one.folder.mkdir()
        stack.enter_context(one.certificates())
        enrolled = enroll(one, other.folder, "--replica")
        (other.folder / enrolled["data_dir"]).rename(other.data_dir)
        stack.enter_context(other.certificates())
        assert not list(other.data_dir.glob("keys/root-*"))

        # An execution server at each, enrolled there.
        both = {}
        for number, deployment in enumerate((one, other)):
            user, port = f"executions-{number}", free_port()
            deployment.run("user", "create", user, "--profile", "relying-party").json()
            enroll(deployment, folder / user, "--user", user, "--server-name", "localhost")
            stack.enter_context(execution_server(deployment, folder / user, user, port))
            both[port] = deployment

        issuers = set()
        for number, deployment in enumerate((one, other)):
            user = f"partner-{number}"
            deployment.run("user", "create", user, "--profile", "regular-user").json()
            enroll(deployment, folder / user, "--user", user)
            context = folder / user / user / "context.toml"
            for port in both:
                assert echo(folder / user, context, port).json() == json.loads(HELLO)
            # By the one that did not issue it.
            elsewhere = other if deployment is one else one
            (certificate,) = elsewhere.run("cert", "list", "--user", user).json()["certificates"]
            issuers.add(certificate["issuer"])
            elsewhere.run("cert", "revoke", certificate["id"]).json()
            for port in both:
                assert echo(folder / user, context, port).reason(3) == "CERTIFICATE_NOT_ACCEPTED"
        assert len(issuers) == 2, "each signs with a key of its own"
