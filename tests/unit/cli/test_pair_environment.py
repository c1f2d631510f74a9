"""What the services that `up` starts find in their environment."""

from __future__ import annotations

import pytest

from handclasp.cli.pair import _environment_of


def test_integrations_do_not_run_beside_the_passphrase_of_the_ca_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANDCLASP_CERTIFICATES_KEY_PASSPHRASE", "secret")
    monkeypatch.setenv("HANDCLASP_EXECUTIONS_LEASE_GRACE", "1")
    monkeypatch.setenv("HANDCLASP_SETTINGS_FILE", "handclasp.toml")
    executions, certificates = _environment_of("executions"), _environment_of("certificates")
    assert "HANDCLASP_CERTIFICATES_KEY_PASSPHRASE" not in executions
    assert executions["HANDCLASP_EXECUTIONS_LEASE_GRACE"] == "1"
    assert certificates["HANDCLASP_CERTIFICATES_KEY_PASSPHRASE"] == "secret"
    assert "PATH" in executions
    assert executions["HANDCLASP_SETTINGS_FILE"] == certificates["HANDCLASP_SETTINGS_FILE"] == "handclasp.toml"
