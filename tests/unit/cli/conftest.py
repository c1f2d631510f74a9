"""A service on real TLS beside the command, and ways to run the command."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from handclasp.cli.main import app
from tests.unit.client.small_service import Small, serving_in_thread


@dataclass(frozen=True)
class Ran:
    """What came of a command."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Handclasp = Callable[..., Ran]


@pytest.fixture
def small() -> Iterator[Small]:
    with serving_in_thread(Small()) as running:
        yield running


@pytest.fixture
def context_file(small: Small, tmp_path: Path) -> Path:
    """A context with a certificate of alice's."""
    folder = tmp_path / "identity"
    folder.mkdir()
    alice = small.issuing.issue("alice")
    (folder / "ca.pem").write_text(small.root.pem)
    (folder / "cert.pem").write_text(alice.pem)
    (folder / "key.pem").write_text(alice.key_pem)
    (folder / "key.pem").chmod(0o600)
    path = folder / "context.toml"
    path.write_text(
        f'certificates_tls = "{small.tls}"\ncertificates_mtls = "{small.mtls}"\nexecutions = "{small.mtls}"\n'
        'ca_file = "ca.pem"\ncertificate = "cert.pem"\nkey = "key.pem"\n'
    )
    return path


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.write_text("correct horse battery\n")
    path.chmod(0o600)
    return path


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Handclasp:
    """The command without any context."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("HANDCLASP_CONTEXT", raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    runner = CliRunner()

    def run(*args: str | Path, stdin: str | bytes | None = None) -> Ran:
        result = runner.invoke(app, [str(arg) for arg in args], input=stdin)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Ran(result.exit_code, result.stdout, result.stderr)

    return run


@pytest.fixture
def handclasp(bare: Handclasp, context_file: Path, monkeypatch: pytest.MonkeyPatch) -> Handclasp:
    """The command with alice's context."""
    monkeypatch.setenv("HANDCLASP_CONTEXT", str(context_file))
    return bare
