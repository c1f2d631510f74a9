"""The context file: reading, writing, finding."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from handclasp.client import context as contexts
from handclasp.client.client import HandclaspClient
from handclasp.client.context import Context
from handclasp.errors import AlreadyExists, FailedPrecondition, HandclaspError, InvalidArgument, Reason
from tests.support.outside_ca import OutsideCA


def test_relative_paths_start_at_the_file(tmp_path: Path) -> None:
    path = tmp_path / "context.toml"
    path.write_text(
        'ca_file = "ca.pem"\ncertificate = "/abs/cert.pem"\nkey = "keys/key.pem"\nexecutions = "[::1]:8443"\n'
    )
    assert contexts.load(path) == Context(
        ca_file=tmp_path / "ca.pem",
        certificate=Path("/abs/cert.pem"),
        key=tmp_path / "keys" / "key.pem",
        executions="[::1]:8443",
    )


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("certificate_tls = 'x:1'", "`certificate_tls` is not a field"),
        ("executions = 8443", "`executions` has to be a text"),
        ("executions = 'localhost'", "is not host:port"),
        ("executions = 'https://localhost:8443'", "is to be host:port, .* without anything before the host"),
        ("executions = 'localhost:0'", "no port between"),
        ("executions = '::1:8443'", "is not host:port"),
        ("certificate = 'cert.pem'", "`certificate` and `key` go together"),
        ("username = 'alice'", "`username` and `password_file` go together"),
        ("executions =", "not TOML"),
    ],
)
def test_faults_are_named(tmp_path: Path, text: str, fault: str) -> None:
    path = tmp_path / "context.toml"
    path.write_text(text)
    with pytest.raises(InvalidArgument, match=fault) as caught:
        contexts.load(path)
    assert caught.value.reason == Reason.CONTEXT_INVALID


def test_written_is_read_back_private_and_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "context.toml"
    written = Context(certificates_tls="ca.example:8442", ca_file=tmp_path / 'odd "name"\n\\ é.pem')
    contexts.write(path, written)
    assert contexts.load(path) == written
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(AlreadyExists):
        contexts.write(path, Context())
    assert contexts.load(path) == written
    contexts.write(path, Context(executions="a.example:1"), force=True)
    assert contexts.load(path) == Context(executions="a.example:1")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [item.name for item in path.parent.iterdir()] == ["context.toml"]


def test_whatever_a_file_is_called_it_is_read_back_or_refused(tmp_path: Path) -> None:
    path, named = tmp_path / "context.toml", tmp_path / 'a"\\\n\t\x01\x7f😀.pem'
    contexts.write(path, Context(ca_file=named))
    assert contexts.load(path).ca_file == named
    with pytest.raises(InvalidArgument, match="not UTF-8") as caught:
        contexts.write(tmp_path / "other.toml", Context(ca_file=tmp_path / os.fsdecode(b"\xff.pem")))
    assert caught.value.reason == Reason.CONTEXT_INVALID
    assert not (tmp_path / "other.toml").exists()


def test_which_file_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("HANDCLASP_CONTEXT", raising=False)
    assert contexts.find(None) == contexts.default_path()
    monkeypatch.setenv("HANDCLASP_CONTEXT", "from-environment.toml")
    assert contexts.find(None) == Path("from-environment.toml")
    assert contexts.find(Path("named.toml")) == Path("named.toml")
    with pytest.raises(FailedPrecondition) as caught:
        contexts.load(tmp_path / "absent.toml")
    assert caught.value.reason == Reason.CONTEXT_NOT_FOUND


@pytest.mark.parametrize("secret", ["key.pem", "password"])
def test_secrets_open_to_others_are_refused(tmp_path: Path, secret: str) -> None:
    ca = OutsideCA()
    (tmp_path / "ca.pem").write_text(ca.pem)
    leaf = ca.issue()
    (tmp_path / "cert.pem").write_text(leaf.pem)
    (tmp_path / "key.pem").write_text(leaf.key_pem)
    (tmp_path / "password").write_text("the secret word\n")
    for name in ("key.pem", "password"):
        (tmp_path / name).chmod(0o600)
    context = Context(
        ca_file=tmp_path / "ca.pem",
        certificate=tmp_path / "cert.pem",
        key=tmp_path / "key.pem",
        username="alice",
        password_file=tmp_path / "password",
    )
    basic = HandclaspClient.from_context(context).basic
    assert basic is not None
    assert basic.password == "the secret word"
    (tmp_path / secret).chmod(0o640)
    with pytest.raises(HandclaspError) as caught:
        HandclaspClient.from_context(context)
    assert caught.value.reason == Reason.FILE_OPEN_TO_OTHERS
    assert "chmod 600" in caught.value.message
    assert "secret word" not in caught.value.message
