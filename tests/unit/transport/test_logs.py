"""What the log looks like, and what never gets into it."""

from __future__ import annotations

import json
import logging
import stat
from pathlib import Path

import pytest
import structlog

from handclasp.certificate_service.domain.enrollment_tokens import new_token
from handclasp.serving.log_streams import CHANGES_LOGGER, CHANGES_STREAM
from handclasp.transport.logs import REDACTED, LogFormat, LogSettings, changes_file_of, redact, set_up_logging
from tests.support.outside_ca import OutsideCA

pytestmark = pytest.mark.usefixtures("logging_as_before")


def log_to(path: Path, log_format: LogFormat) -> structlog.stdlib.BoundLogger:
    set_up_logging(LogSettings(format=log_format, file=path))
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger("handclasp.tests")
    return logger


def raised(error: RuntimeError) -> RuntimeError:
    """The error with a traceback."""
    with pytest.raises(RuntimeError):
        raise error
    return error


def test_key_values_are_one_line_even_of_hostile_text(tmp_path: Path) -> None:
    log_to(tmp_path / "log", LogFormat.KEY_VALUE).info("refused", name="a\nlevel=error b", peer="192.0.2.7")
    (line,) = (tmp_path / "log").read_text().splitlines()
    assert 'name="a\\nlevel=error b"' in line
    assert "event=refused" in line
    assert "peer=192.0.2.7" in line


def test_key_values_cannot_steer_a_terminal(tmp_path: Path) -> None:
    subject = "CN=\x1b[2J\u2028forged \u202e\x85\ud800 é"
    log_to(tmp_path / "log", LogFormat.KEY_VALUE).error(
        "added", subject=subject, exc_info=raised(RuntimeError(subject))
    )
    text = (tmp_path / "log").read_text()
    assert all(character.isprintable() for line in text.split("\n") for character in line)
    assert "\\x1b[2J\\u2028forged \\u202e\\x85\\ud800 é" in text


def test_json_lines_parse_and_hold_the_libraries_too(tmp_path: Path) -> None:
    logger = log_to(tmp_path / "log", LogFormat.JSON)
    logger.info("one", count=3)
    logging.getLogger("some.library").warning("two %s", "words")
    first, second = (json.loads(line) for line in (tmp_path / "log").read_text().splitlines())
    assert (first["event"], first["count"], first["level"]) == ("one", 3, "info")
    assert (second["event"], second["logger"]) == ("two words", "some.library")


def test_a_traceback_is_indented_below_its_event(tmp_path: Path) -> None:
    logger = log_to(tmp_path / "log", LogFormat.KEY_VALUE)
    logger.error("failed", exc_info=raised(RuntimeError("it broke")))
    first, *rest = (tmp_path / "log").read_text().splitlines()
    assert "event=failed" in first
    assert rest
    assert all(line.startswith("    ") for line in rest)
    assert rest[-1].strip() == "RuntimeError: it broke"


def test_the_file_is_for_its_owner_only_also_after_rotation(tmp_path: Path) -> None:
    path = tmp_path / "log"
    set_up_logging(LogSettings(file=path, max_bytes=200, backups=1))
    for number in range(10):
        logging.getLogger("tests").warning("event number %d", number)
    assert (tmp_path / "log.1").exists()
    assert {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()} == {0o600}


def test_a_file_without_backups_does_not_grow_on(tmp_path: Path) -> None:
    path = tmp_path / "log"
    set_up_logging(LogSettings(file=path, max_bytes=2_000, backups=0))
    for number in range(200):
        logging.getLogger("tests").warning("event number %d", number)
    assert [file.name for file in tmp_path.iterdir()] == ["log"]
    assert path.stat().st_size < 4_000
    assert "event number 199" in path.read_text()


@pytest.mark.parametrize(
    "key",
    ["password", "old_password", "Authorization", "private_key_pem", "key_pem", "passphrase", "basic_credentials"],
)
def test_values_of_secret_names_are_replaced(key: str) -> None:
    assert redact(None, "info", {key: "hunter2"}) == {key: REDACTED}
    assert redact(None, "info", {"request": {"inner": [{key: "hunter2"}]}}) == {"request": {"inner": [{key: REDACTED}]}}


def test_values_that_look_like_secrets_are_replaced() -> None:
    key = OutsideCA().issue().key_pem
    event = redact(
        None,
        "info",
        {
            "event": f"before {key} after",
            "header": "Basic YWxpY2U6c2VjcmV0",
            "url": "postgresql://user:hunter2@host/db",
            "typed": f"handclasp enroll --token {new_token()} --out a",
            "fine": "BASIC education",
            "count": 3,
        },
    )
    assert event == {
        "event": f"before {REDACTED}\n after",
        "header": REDACTED,
        "url": f"postgresql://{REDACTED}@host/db",
        "typed": f"handclasp enroll --token {REDACTED} --out a",
        "fine": "BASIC education",
        "count": 3,
    }


def test_a_secret_in_a_traceback_is_replaced(tmp_path: Path) -> None:
    logger = log_to(tmp_path / "log", LogFormat.JSON)
    logger.error("failed", exc_info=raised(RuntimeError(OutsideCA().issue().key_pem)))
    text = (tmp_path / "log").read_text()
    assert "PRIVATE KEY" not in text
    assert REDACTED in text


def change_logger() -> structlog.stdlib.BoundLogger:
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(CHANGES_LOGGER, stream=CHANGES_STREAM)
    return logger


def test_changes_are_in_a_file_of_their_own_that_nothing_else_rotates(tmp_path: Path) -> None:
    file = tmp_path / "certificates.log"
    set_up_logging(LogSettings(file=file, max_bytes=500, backups=1))
    assert not changes_file_of(file).exists()

    change_logger().info("certificate_revoked", certificate="certificates/one")
    assert "certificate_revoked" in file.read_text()
    for _ in range(100):
        logging.getLogger("tests").warning("refused, as anybody can bring about")
    everything = "".join(path.read_text() for path in (file, tmp_path / "certificates.log.1"))
    assert "certificate_revoked" not in everything

    (line,) = (tmp_path / "certificates-changes.log").read_text().splitlines()
    assert "event=certificate_revoked" in line
    assert "stream=changes" in line
    assert stat.S_IMODE(changes_file_of(file).stat().st_mode) == 0o600


def test_changes_are_kept_whatever_the_level(tmp_path: Path) -> None:
    file = tmp_path / "certificates.log"
    set_up_logging(LogSettings(file=file, level="ERROR"))
    change_logger().info("certificate_revoked", certificate="certificates/one")
    assert not file.read_text()
    assert "certificate_revoked" in changes_file_of(file).read_text()


def test_changes_are_rotated_by_their_own_limits(tmp_path: Path) -> None:
    set_up_logging(LogSettings(file=tmp_path / "log", changes_max_bytes=300, changes_backups=2))
    for number in range(20):
        change_logger().info("user_created", user=f"users/user-{number}")
    kept = {path.name for path in tmp_path.iterdir()}
    assert kept == {"log", "log-changes", "log-changes.1", "log-changes.2"}


def test_on_standard_error_changes_can_be_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging(LogSettings(format=LogFormat.JSON))
    change_logger().info("user_created", user="users/alice")
    logging.getLogger("tests").warning("something else")
    change, other = capsys.readouterr().err.splitlines()
    assert json.loads(change)["stream"] == "changes"
    assert "stream" not in json.loads(other)


def test_a_disk_that_is_full_is_told_once_and_ends_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    logger = log_to(Path("/dev/full"), LogFormat.KEY_VALUE)
    for number in range(3):
        logger.info("said", number=number)
    (line,) = capfd.readouterr().err.splitlines()
    assert line == "the log /dev/full cannot be written: No space left on device; lines are lost"
