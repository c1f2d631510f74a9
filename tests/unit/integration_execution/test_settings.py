"""Where settings come from, and which of them counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from handclasp.integration_execution.settings import ExecutionSettings

REQUIRED: dict[str, Any] = {"ca_file": "ca.pem", "identity_cert": "cert.pem", "identity_key": "key.pem"}


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HANDCLASP_SETTINGS_FILE", raising=False)
    return tmp_path


def test_defaults_listen_on_loopback() -> None:
    settings = ExecutionSettings(**REQUIRED)
    assert (settings.host, settings.port) == ("127.0.0.1", 8443)
    assert (settings.health_host, settings.health_port) == ("127.0.0.1", 8481)
    assert settings.renew_identity
    assert (settings.lease_wait, settings.lease_grace, settings.max_decisions) == (1, 10, 100_000)


def test_arguments_before_environment_before_file(empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (empty_folder / "handclasp.toml").write_text(
        '[executions]\nport = 1\nhealth_port = 1\ngrace = 1\nca_file = "a"\nidentity_cert = "b"\nidentity_key = "c"\n'
        "[executions.limits]\nmax_connections = 7\n[certificates]\nanything = 1\n"
    )
    monkeypatch.setenv("HANDCLASP_EXECUTIONS_PORT", "2")
    monkeypatch.setenv("HANDCLASP_EXECUTIONS_HEALTH_PORT", "2")
    monkeypatch.setenv("HANDCLASP_EXECUTIONS_LIMITS__MAX_CONCURRENT_STREAMS", "9")
    settings = ExecutionSettings(port=3)
    assert (settings.port, settings.health_port, settings.grace) == (3, 2, 1)
    assert (settings.limits.max_connections, settings.limits.max_concurrent_streams) == (7, 9)


@pytest.mark.parametrize(
    "value", [{"port": -1}, {"port": 65536}, {"lease_grace": 0}, {"max_decisions": -1}, {"typo": 1}, {"grace": "inf"}]
)
def test_what_does_not_fit_is_refused(value: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ExecutionSettings(**REQUIRED | value)
