"""The command as a process, its usage errors, and its small parts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import unicodedata
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import typer

from handclasp.cli import values
from handclasp.cli.exit_status import error_line, exit_status
from handclasp.cli.json_text import pretty
from handclasp.cli.main import Handclasp as Commands
from handclasp.cli.output import print_json, print_table
from handclasp.cli.text import one_line, shown, shown_json
from handclasp.errors import (
    Aborted,
    FailedPrecondition,
    HandclaspError,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Reason,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)
from tests.unit.cli.conftest import Handclasp
from tests.unit.client.small_service import Small

PROGRAM = (sys.executable, "-c", "from handclasp.cli.main import run; run()")


@pytest.mark.parametrize(
    ("error_type", "reason", "status"),
    [
        (PermissionDenied, Reason.ACCESS_DENIED, 3),
        (Unauthenticated, Reason.CREDENTIALS_INVALID, 3),
        (Unauthenticated, Reason.SERVER_CERTIFICATE_REFUSED, 3),
        (Unavailable, Reason.HANDSHAKE_REFUSED, 3),
        (Unavailable, Reason.SERVER_UNREACHABLE, 1),
        (NotFound, Reason.USER_NOT_FOUND, 4),
        (FailedPrecondition, Reason.CONTEXT_NOT_FOUND, 1),
        (InvalidArgument, Reason.FIELD_INVALID, 5),
        (Aborted, Reason.INTEGRATION_FAILED, 1),
    ],
)
def test_exit_statuses(error_type: type[HandclaspError], reason: Reason, status: int) -> None:
    assert exit_status(error_type(reason, "x")) == status


def test_an_error_is_one_line_that_steers_no_terminal() -> None:
    error = ResourceExhausted("NEWER_REASON", "too\nmuch \x1b[31m", retry_after=timedelta(seconds=12))
    assert error_line(error) == "NEWER_REASON: too much \\x1b[31m (worth trying again in 12 s)"


@pytest.mark.parametrize(
    "args",
    [
        ("nosuch",),
        ("cert",),
        ("cert", "nosuch"),
        ("cert", "issue"),
        ("cert", "issue", "--nosuch"),
        ("cert", "issue", "--user", "u", "--out", "o", "--lifetime", "1 week"),
        ("cert", "issue", "--user", "u", "--out", "o", "--label", "novalue"),
        ("cert", "issue", "--user", "u", "--out", "o", "--csr", "f", "--server-key"),
        ("cert", "list", "--state", "odd"),
        ("cert", "list", "--limit", "0"),
        ("cert", "list", "--expires-before", "tomorrow"),
        ("user", "list", "-o", "yaml"),
        ("user", "list", "--password-file", "f"),
        ("--password-file", "f", "user", "create", "bob"),
        ("context", "new", "--executions", "nowhere"),
        ("user", "create", "bob", "--password-stdin", "--password-file", "f"),
    ],
)
def test_usage_errors_are_one_line_and_status_2(bare: Handclasp, args: tuple[str, ...]) -> None:
    ran = bare(*args)
    assert (ran.status, ran.out) == (2, "")
    assert len(ran.err.splitlines()) == 1
    assert ran.err.startswith("USAGE: ")
    assert "--help" in ran.err


def test_the_command_alone_shows_its_help(bare: Handclasp) -> None:
    ran = bare()
    assert (ran.status, ran.out) == (2, "")
    assert "Usage:" in ran.err
    assert "integration" in ran.err


def test_an_empty_key_does_not_end_the_process(small: Small, context_file: Path, tmp_path: Path) -> None:
    empty = tmp_path / "e.pem"
    empty.touch(0o600)
    args = ("--context", str(context_file), "run", "echo", "--cert", str(context_file.parent / "cert.pem"))
    ran = subprocess.run(
        [*PROGRAM, *args, "--key", str(empty)],
        capture_output=True,
        text=True,
        env=environment(tmp_path),
        check=False,
    )
    said = f"FILE_NOT_USABLE: the private key {empty} is empty; check that it is the right file\n"
    assert (ran.returncode, ran.stderr) == (5, said)


def test_tables_for_scripts_have_a_line_for_each(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("ID", "SUBJECT"), [("c1", "x" * 300), ("c2", "y " * 200)], "none")
    heading, _, first, second = capsys.readouterr().out.splitlines()
    assert heading.split() == ["ID", "SUBJECT"]
    assert ("x" * 300 in first, second.count("y")) == (True, 200)


def test_a_narrow_terminal_keeps_ids_and_times_whole(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    for name, value in (("COLUMNS", "80"), ("TERM", "dumb"), ("NO_COLOR", "1")):
        monkeypatch.setenv(name, value)
    certificate_id, expires = "06h0000000000000000000000a", "2027-01-31T12:00:00Z"
    row = (certificate_id, "execution-server-2", "NOT_YET_VALID", expires)
    print_table(("ID", "USER", "STATE", "EXPIRES"), [row], "none", whole=("STATE", "EXPIRES"))
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert {certificate_id, expires, "NOT_YET_VALID"} <= set(out.split())


def test_help_of_everything(bare: Handclasp) -> None:
    top = bare("--help")
    assert top.status == 0
    for name in Commands.commands_by_name:
        assert name in top.out
        ran = bare(name, "--help")
        assert (ran.status, ran.err) == (0, "")
        assert max(map(len, ran.out.splitlines())) <= 80


@pytest.mark.parametrize(("given", "seconds"), [("30d", 30 * 86400), ("12h", 12 * 3600), ("90m", 5400), ("45s", 45)])
def test_durations(given: str, seconds: int) -> None:
    assert values.duration(given).total_seconds() == seconds


@pytest.mark.parametrize("given", ["", "30", "d", "-1d", "1.5h", "0s", "1d2h", "٣d", "999999999d", "1w"])
def test_durations_that_are_none(given: str) -> None:
    with pytest.raises(typer.BadParameter):
        values.to_duration(values.duration(given))


def test_moments() -> None:
    assert values.moment("2026-01-31") == datetime(2026, 1, 31, tzinfo=UTC)
    assert values.moment("2026-01-31T01:00:00+02:00") == datetime(2026, 1, 30, 23, tzinfo=UTC)
    before = datetime.now(UTC)
    assert before <= values.moment("1d") - timedelta(days=1) <= datetime.now(UTC)
    for given in ("99999999d", "31.1.2026", ""):
        with pytest.raises(typer.BadParameter):
            values.moment(given)


def test_json_is_indented_and_not_rewritten() -> None:
    exact = '{"a":1.10,"b":[],"c":[1e400,{"d":"x, [y]: \\" "}],"e":{},"f":123456789012345678901234567890}'
    assert pretty(exact) == (
        '{\n  "a": 1.10,\n  "b": [],\n  "c": [\n    1e400,\n    {\n      "d": "x, [y]: \\" "\n    }\n  ],\n  "e": {},\n'
        '  "f": 123456789012345678901234567890\n}'
    )
    assert [pretty(text) for text in ("1.0", '"s"', "null", " [ ] ")] == ["1.0", '"s"', "null", "[]"]


def test_text_from_elsewhere_steers_no_terminal() -> None:
    assert shown("é 名 \x1b[2J\u202eab\r\n") == "é 名 \\x1b[2J\\u202eab\\r\n"
    assert one_line("a\n\tb\u2028c") == "a b c"


def test_nor_does_json_of_the_same_value(capsys: pytest.CaptureFixture[str]) -> None:
    # Halves of surrogates in the order in which they are none.
    every = "".join(
        map(chr, [*range(0xD800), *range(0xDC00, 0xE000), *range(0xD800, 0xDC00), *range(0xE000, 0x110000)])
    )
    value = {"a": every, "b\x9b31m": ["é 名 \U0001f600"]}
    print_json(value)
    printed = capsys.readouterr().out
    for text in (printed, pretty(json.dumps(value, ensure_ascii=False))):
        assert json.loads(text) == value
        assert not {unicodedata.category(character) for character in text} & {"Cf", "Cs", "Zl", "Zp"}
        assert {character for character in text if unicodedata.category(character) == "Cc"} == {"\n"}
        assert "é 名 \U0001f600" in text
    assert shown_json('\t{"a": \r\n"\x7f"}') == '\t{"a": \r\n"\\u007f"}', "white space between values stays"


def environment(tmp_path: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HANDCLASP_")}
    return {**kept, "XDG_CONFIG_HOME": str(tmp_path)}


def test_stderr_has_our_line_and_nothing_of_grpcs(small: Small, context_file: Path, tmp_path: Path) -> None:
    (context_file.parent / "ca.pem").write_text(Small().root.pem)
    args = ("--context", str(context_file), "user", "list")
    ran = subprocess.run([*PROGRAM, *args], capture_output=True, text=True, env=environment(tmp_path), check=False)
    assert (ran.returncode, ran.stdout) == (3, "")
    assert len(ran.stderr.splitlines()) == 1
    assert ran.stderr.startswith("SERVER_CERTIFICATE_REFUSED: ")


def test_an_interrupt_is_quiet(small: Small, context_file: Path, tmp_path: Path) -> None:
    args = ("--context", str(context_file), "run", "slow")
    process = subprocess.Popen(
        [*PROGRAM, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(tmp_path)
    )
    deadline = time.monotonic() + 20
    while not small.asked("ExecuteIntegration") and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (130, "", "")


def test_help_imports_neither_grpc_nor_cryptography(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from handclasp.cli.main import run\n"
        "try:\n    run()\n"
        "finally:\n"
        "    slow = {'grpc', 'cryptography', 'google.protobuf'}\n"
        "    print(*slow & sys.modules.keys(), file=sys.stderr)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, "--help"], capture_output=True, text=True, env=environment(tmp_path), check=True
    )
    assert ran.stderr.strip() == ""
