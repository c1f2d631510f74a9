"""What keeps a service from starting is told in a line, before the service makes anything."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from handclasp.certificate_service.settings import CertificateServiceSettings
from handclasp.transport.process import port_taken, run_process, settings_fault

pytestmark = pytest.mark.usefixtures("logging_as_before")


@pytest.fixture(autouse=True)
def no_settings_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HANDCLASP_SETTINGS_FILE", raising=False)


def refused(capsys: pytest.CaptureFixture[str], **given: Any) -> tuple[int, str]:
    """The exit status and what is said, of a start with these settings."""

    async def serve(_settings: CertificateServiceSettings) -> None:
        pytest.fail("the service was started")

    with pytest.raises(SystemExit) as caught:
        run_process("service", CertificateServiceSettings, lambda: CertificateServiceSettings(**given), serve)
    assert isinstance(caught.value.code, int)
    return caught.value.code, capsys.readouterr().err


def test_a_ready_file_in_a_folder_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run" / "ready.json"
    status, said = refused(capsys, ready_file=path)
    assert status == 1
    why = "cannot be written: No such file or directory; make its folder, or choose another one"
    assert said == f"START_NOT_POSSIBLE: service: ready_file: {path} {why}\n"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_ready_file_in_a_folder_of_somebody_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tmp_path.chmod(0o500)
    status, said = refused(capsys, ready_file=tmp_path / "ready.json")
    assert (status, "Permission denied" in said) == (1, True)


def test_a_log_file_that_cannot_be_opened(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "log" / "service.log"
    status, said = refused(capsys, log={"file": path})
    assert status == 1
    assert said.startswith(
        f"START_NOT_POSSIBLE: service: log.file: {path} cannot be written: No such file or directory; make its folder"
    )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"server_names": "certificates.example.org"}, 'server_names: must be a list, such as ["one", "another"]'),
        ({"server_names": ["https://a.example:1"]}, "server_names: 'https://a.example:1' is neither a DNS name nor"),
        ({"tls_port": 9000, "mtls_port": 9000}, "tls_port and mtls_port are both 9000"),
        # gRPC is told in milliseconds, in 32 bits.
        ({"limits": {"keepalive": float("inf")}}, "limits.keepalive: Input should be"),
        ({"limits": {"max_connection_age": 3_000_000}}, "limits.max_connection_age: Input should be less than"),
        ({"limits": {"max_connections": -1}}, "limits.max_connections: Input should be greater than or equal to 1"),
        ({"log": {"backups": -1}}, "log.backups: Input should be greater than or equal to 0"),
        # Tokens that expire within that time would be forgotten while they are good.
        ({"request_retention": timedelta(days=-1)}, "request_retention: Input should be greater than or equal to 0"),
        # Of each of these, some moment would be none that there is.
        ({"request_retention": timedelta(days=1_000_000)}, "request_retention: Input should be less than or equal to"),
        ({"maximum_lifetime": timedelta(days=4_000_000)}, "maximum_lifetime: Input should be less than or equal to"),
        ({"denials": {"window": timedelta(days=1_000_000)}}, "denials.window: Input should be less than or equal to"),
        (
            {"server_certificate_lifetime": timedelta(days=4_000_000)},
            "server_certificate_lifetime: Input should be less than or equal to",
        ),
        (
            {"maximum_enrollment_token_lifetime": timedelta(days=4_000_000)},
            "maximum_enrollment_token_lifetime: Input should be less than or equal to",
        ),
        (
            {"throttle": {"longest_wait": timedelta(days=4_000_000)}},
            "throttle.longest_wait: Input should be less than or equal to",
        ),
    ],
)
def test_settings_that_would_be_found_wrong_only_after_the_first_start(
    capsys: pytest.CaptureFixture[str], given: dict[str, Any], said: str
) -> None:
    status, line = refused(capsys, **given)
    assert status == 2
    assert line.startswith(f"START_NOT_POSSIBLE: service: the settings do not fit: {said}")


def test_both_ports_may_be_any_free_one() -> None:
    assert CertificateServiceSettings(tls_port=0, mtls_port=0).mtls_port == 0


def test_a_settings_file_that_may_not_be_read(tmp_path: Path) -> None:
    """Its folder is told, too: that of root's home is another user's, and where `sudo` often starts."""
    error = PermissionError(13, "Permission denied", "handclasp.toml")
    said = settings_fault(error, CertificateServiceSettings, {})
    assert said == f"{tmp_path}/handclasp.toml cannot be read: Permission denied"


def test_a_port_below_1024_may_be_root_s() -> None:
    assert "only root may take ports below 1024" in str(port_taken("tls_port", "0.0.0.0", 442))  # noqa: S104
    assert "root" not in str(port_taken("tls_port", "0.0.0.0", 8442))  # noqa: S104
