"""What is said of settings that do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from handclasp.integration_execution.settings import ExecutionSettings
from handclasp.transport.process import settings_fault

REQUIRED: dict[str, Any] = {"ca_file": "ca.pem", "identity_cert": "cert.pem", "identity_key": "key.pem"}


@pytest.fixture(autouse=True)
def no_settings_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HANDCLASP_SETTINGS_FILE", raising=False)


def fault(**given: Any) -> str:
    with pytest.raises((ValueError, OSError)) as caught:
        ExecutionSettings(**given)
    return settings_fault(caught.value, ExecutionSettings, {"ca_file": "--ca"})


def test_what_is_not_set_is_told_with_the_ways_to_set_it() -> None:
    assert fault().split("; ")[:2] == [
        "[executions] ca_file is not set: use --ca, HANDCLASP_EXECUTIONS_CA_FILE or handclasp.toml",
        "[executions] identity_cert is not set: use HANDCLASP_EXECUTIONS_IDENTITY_CERT or handclasp.toml",
    ]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"helth_port": 1}, "[executions] has no setting helth_port; did you mean health_port?"),
        (
            {"limits": {"max_conections": 1}},
            "[executions] has no setting limits.max_conections; did you mean limits.max_connections?",
        ),
        ({"log": {"levle": "INFO"}}, "[executions] has no setting log.levle; did you mean log.level?"),
        ({"zzz": 1}, "[executions] has no setting zzz"),
        ({"port": -1}, "port: Input should be greater than or equal to 0"),
    ],
)
def test_what_does_not_fit_is_told_in_words(given: dict[str, Any], said: str) -> None:
    assert fault(**REQUIRED, **given) == said


def test_a_settings_file_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANDCLASP_SETTINGS_FILE", "nope.toml")
    assert fault(**REQUIRED) == "HANDCLASP_SETTINGS_FILE names nope.toml, which is not there"


def test_a_variable_that_misses_the_name_of_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANDCLASP_EXECUTIONS_WORKER", "4")
    said = "no setting has the variable HANDCLASP_EXECUTIONS_WORKER; did you mean HANDCLASP_EXECUTIONS_WORKERS?"
    assert fault(**REQUIRED) == said


@pytest.mark.parametrize("name", ["SERVICE_HOST", "SERVICE_PORT", "PORT_8443_TCP_ADDR", "ENVIRONMENT"])
def test_variables_that_mean_no_setting_are_left_alone(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Kubernetes sets some for each service, and there may be one that is named like ours."""
    monkeypatch.setenv(f"HANDCLASP_EXECUTIONS_{name}", "tcp://192.0.2.1:8443")
    monkeypatch.setenv("HANDCLASP_EXECUTIONS_LOG__LEVEL", "DEBUG")
    assert ExecutionSettings(**REQUIRED).log.level == "DEBUG"
