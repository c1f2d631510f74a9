"""The services one by one, as `handclasp serve` runs them: trust that does not reload, an outage, a locked-out
administrator."""

from __future__ import annotations

import http.client
import json
import re
import socket
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, inspect

from tests.e2e.processes import Deployment, Finished, Process, environment, free_port, run_command, wait_until
from tests.support.postgres import PostgresServer

# Several starts and stops of processes, on cores that may be busy with other tests.
pytestmark = pytest.mark.timeout(300)


def echo(deployment: Deployment, *more: str) -> Finished:
    certificate, key = deployment.folder / "alice/cert.pem", deployment.folder / "alice/key.pem"
    arguments = ("run", "echo", "--cert", certificate, "--key", key, "--ca", deployment.data_dir / "ca.pem")
    return run_command(*arguments, "--address", deployment.executions, *more, folder=deployment.folder)


@pytest.fixture
def deployment(folder: Path) -> Deployment:
    return Deployment(folder)


def set_up(deployment: Deployment) -> None:
    deployment.issue_execution_identity()
    deployment.run("user", "create", "alice", "--profile", "regular-user").json()
    deployment.run("cert", "issue", "--user", "alice", "--out", "alice").json()


@pytest.mark.parametrize(("setting", "workers"), [("tls", 1), ("health", 1), ("mtls", 2)])
def test_a_first_start_that_finds_a_port_taken_leaves_nothing(
    folder: Path, postgres: PostgresServer, setting: str, workers: int
) -> None:
    with postgres.database() as database_url, socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        ports = {"tls": 0, "mtls": 0, "health": 0} | {setting: port}
        options = [word for name, number in ports.items() for word in (f"--{name}-port", str(number))]
        refused = run_command(
            *("serve", "certificates", "--data-dir", "data", "--workers", str(workers), *options),
            folder=folder,
            variables=environment(HANDCLASP_CERTIFICATES_DATABASE_URL=database_url),
        )
        assert tables(database_url) == []
    assert (refused.status, refused.out) == (1, "")
    assert refused.errors.startswith(
        f"START_NOT_POSSIBLE: handclasp certificates: cannot listen on 127.0.0.1 port {port}: another process"
    )
    assert f"set {setting}_port" in refused.errors
    assert not (folder / "data").exists()


def tables(database_url: str) -> list[str]:
    engine = create_engine(database_url)
    try:
        return inspect(engine).get_table_names()
    finally:
        engine.dispose()


def test_no_answer_is_never_a_yes(deployment: Deployment) -> None:
    service = deployment.certificates()
    with service:
        set_up(deployment)
        with deployment.execution_server():
            assert echo(deployment).json() == {}
            service.kill()
            # For as long as the lease runs, what was allowed before is.
            wait_until(lambda: echo(deployment).status != 0, "the lease is over")
            for _ in range(2):
                refused = echo(deployment)
                assert refused.reason(1) == "AUTHORIZER_UNAVAILABLE"
                # Not even what may be run is told, and no word of where the other service is.
                assert str(deployment.ports["mtls"]) not in refused.errors
            with deployment.certificates():
                wait_until(lambda: echo(deployment).status == 0, "the execution server asks again")
                deployment.run("user", "disable", "alice").json()
                assert echo(deployment).reason(3) == "CERTIFICATE_NOT_ACCEPTED"


def test_one_that_has_not_reached_the_certificate_service_yet_says_so(deployment: Deployment) -> None:
    """Whoever watches it is to see that it lives, and leave it alone."""
    with deployment.certificates():
        deployment.issue_execution_identity()
    identity, port = deployment.identity("executions"), free_port()
    waiting = Process(
        "waiting",
        *("serve", "executions", "--certificate-service", f"localhost:{deployment.ports['mtls']}"),
        *("--ca", deployment.data_dir / "ca.pem", "--cert", identity / "cert.pem", "--key", identity / "key.pem"),
        *("--port", "0", "--health-port", str(port)),
        folder=deployment.folder,
    )
    with waiting:
        wait_until(lambda: health(port, "livez")[0] == 200, "it lives")
        status, answer = health(port, "readyz")
        assert status == 503
        assert "has not been reached yet" in answer["missing"]
        with deployment.certificates():
            wait_until(lambda: health(port, "readyz")[0] == 200, "it has a lease")


def test_one_that_is_at_the_one_way_port_is_told_of_the_other(deployment: Deployment) -> None:
    with deployment.certificates():
        deployment.issue_execution_identity()
        identity, log = deployment.identity("executions"), deployment.folder / "astray.log"
        astray = Process(
            "astray",
            *("serve", "executions", "--certificate-service", f"localhost:{deployment.ports['tls']}"),
            *("--ca", deployment.data_dir / "ca.pem", "--cert", identity / "cert.pem", "--key", identity / "key.pem"),
            *("--port", "0", "--health-port", "0"),
            folder=deployment.folder,
            variables=environment(HANDCLASP_EXECUTIONS_LOG__FILE=log, HANDCLASP_EXECUTIONS_LOG__FORMAT="json"),
        )
        with astray:
            wait_until(lambda: log.exists() and "own_identity_refused" in log.read_text(), "it is refused")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    [hint] = {line["hint"] for line in lines if line["event"] == "own_identity_refused"}
    assert "mutual TLS port" in hint
    assert "certificate_service" in hint


def health(port: int, path: str) -> tuple[int, dict[str, Any]]:
    """What a service says of itself; status 0 if nobody answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", f"/{path}")
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    except OSError:
        return 0, {}
    finally:
        connection.close()


def test_a_context_file_that_was_spoilt_keeps_nothing_from_starting(deployment: Deployment) -> None:
    with deployment.certificates() as service:
        assert service.stop() == 0
    context = deployment.data_dir / "context.toml"
    spoilt = f'{context.read_text()}executions = "localhost:8443'
    context.write_text(spoilt)
    with deployment.certificates() as service:
        assert re.fullmatch(rf"CONTEXT_INVALID: {context} cannot be read: .*; mend it, .*\n", service.errors)
        assert context.read_text() == spoilt, "whoever edited it finds it as it was"
        assert service.stop() == 0
    context.unlink()
    with deployment.certificates():
        assert deployment.run("user", "show", "admin").json()["state"] == "STATE_ACTIVE"


def test_an_administrator_who_is_locked_out_is_let_in_again(deployment: Deployment) -> None:
    with deployment.certificates() as service:
        # Standard output is no terminal: what is printed there may be kept.
        assert "Password:" not in service.out
        assert "No password was set." in service.out
        assert "`handclasp user set-password admin` sets one, with --password-file or --password-stdin" in service.out
        assert deployment.run("user", "show", "admin").json().get("hasPassword", False) is False
        for certificate in deployment.run("cert", "list", "--user", "admin").json()["certificates"]:
            deployment.run("cert", "revoke", certificate["id"]).json()
        assert deployment.run("user", "list").reason(3) == "CERTIFICATE_NOT_ACCEPTED"
        assert service.stop() == 0

    context = deployment.data_dir / "context.toml"
    good = context.read_text()
    context.write_text(f"{good}no TOML")
    refused = run_command("admin", "recover", "--data-dir", deployment.data_dir, folder=deployment.folder)
    assert refused.reason(1) == "RECOVERY_NOT_POSSIBLE", "before there is a new password that nobody would see"
    context.write_text(good)
    recovered = run_command("admin", "recover", "--data-dir", deployment.data_dir, folder=deployment.folder)
    assert (recovered.status, recovered.errors) == (0, "")
    shown = re.search(r"^Password: +(\S+)$", recovered.out, re.MULTILINE)
    assert shown is not None
    password_file = deployment.folder / "password"
    password_file.touch(0o600)
    password_file.write_text(shown[1])
    with deployment.certificates():
        assert deployment.run("user", "show", "admin").json()["state"] == "STATE_ACTIVE"
        by_password = deployment.run("--as", "admin", "--password-file", password_file, "user", "create", "alice")
        assert by_password.json()["id"] == "alice"
