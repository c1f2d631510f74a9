"""An execution server renews its own certificate at a real certificate service."""

from __future__ import annotations

from pathlib import Path

import pytest

from handclasp.serving.tls import TlsIdentity
from tests.e2e.processes import Deployment, run_command, wait_until

# Several starts and stops of processes, on cores that may be busy with other tests.
pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def deployment(folder: Path) -> Deployment:
    return Deployment(folder)


def test_it_renews_writes_and_comes_back_with_it(deployment: Deployment) -> None:
    def echo() -> int:
        arguments = ("run", "echo", "--cert", "alice/cert.pem", "--key", "alice/key.pem", "--ca", "data/ca.pem")
        return run_command(*arguments, "--address", deployment.executions, folder=deployment.folder).status

    with deployment.certificates():
        # Its validity begins minutes before it is issued, so it is due at once.
        deployment.issue_execution_identity("executions", "--lifetime", "60s")
        deployment.run("user", "create", "alice", "--profile", "regular-user").json()
        deployment.run("cert", "issue", "--user", "alice", "--out", "alice").json()
        folder = deployment.identity("executions")
        first = (folder / "cert.pem").read_bytes()
        with deployment.execution_server():
            wait_until(lambda: (folder / "cert.pem").read_bytes() != first, "the certificate is renewed")
            assert echo() == 0
            wait_until(lambda: "identity_renewed" in (deployment.folder / "executions.log").read_text(), "it is used")
            assert echo() == 0
        TlsIdentity((folder / "key.pem").read_bytes(), (folder / "cert.pem").read_bytes()).check()
        assert {path.name for path in folder.iterdir()} == {"cert.pem", "key.pem"}
        listed = deployment.run("cert", "list", "--user", "executions-1").json()["certificates"]
        assert len(listed) >= 2
        successor = deployment.run("cert", "show", listed[1]["id"]).json()
        assert successor["renewed_from"] == f"certificates/{listed[0]['id']}"
        with deployment.execution_server():
            assert echo() == 0
