"""What a process writes to file descriptor 2: nothing of it is lost, and refused handshakes are taken out."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handclasp.serving import stderr_relay
from handclasp.serving.refused_handshakes import HandshakeReason
from handclasp.serving.stderr_relay import Fate, Relay, judge

PREFIX = b"I1201 02:33:10.729576    7393 ssl_transport_security.cc:2563] "
FAILED = PREFIX + b"Handshake failed with error SSL_ERROR_SSL: error:1000007d:SSL routines:OPENSSL_internal:"
PATIENCE = 60.0  # seconds, for a machine that is busy


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"CERTIFICATE_VERIFY_FAILED: certificate has expired", "EXPIRED"),
        (b"CERTIFICATE_VERIFY_FAILED: unsupported certificate purpose", "WRONG_PURPOSE"),
        (b"CERTIFICATE_VERIFY_FAILED: something new", "CHAIN_INVALID"),
        (b"PEER_DID_NOT_RETURN_A_CERTIFICATE: Invalid certificate verification context", "NO_CERTIFICATE"),
        (b"TLSV1_ALERT_UNKNOWN_CA", "CLIENT_BROKE_OFF"),
        (b"SOMETHING_NEW: whatever", "OTHER"),
    ],
)
def test_a_refused_handshake_has_a_reason(said: bytes, reason: str) -> None:
    assert judge(FAILED + said) == reason


def test_every_reason_is_known_to_the_server() -> None:
    text = Path(stderr_relay.__file__).read_text(encoding="utf-8")
    named = set(re.findall(r'(?<!b)"([A-Z_]{4,})"', text))
    assert {reason.value for reason in HandshakeReason} == named


def test_of_grpcs_other_lines_those_that_are_wanted_go_on() -> None:
    assert judge(PREFIX + b"chatter") is Fate.DROP
    assert judge(b"E" + PREFIX[1:] + b"a fault") is Fate.PASS_ON
    assert judge(b"E" + PREFIX[1:] + b"a fault", b"F") is Fate.DROP
    assert judge(PREFIX + b"chatter", b"WIEF") is Fate.PASS_ON
    # A server name as somebody sent it.
    assert judge(b"E" + PREFIX[1:] + b"No match found for server name: \x1b[2Jhello") is Fate.DROP


@given(st.lists(st.binary(max_size=40)), st.lists(st.integers(0, 40)))
def test_what_is_not_grpcs_goes_on_unchanged_however_it_is_cut(parts: list[bytes], cuts: list[int]) -> None:
    data = b"\n".join(parts)
    relay = Relay(b"EF")
    passed = b""
    for cut in [*cuts, len(data)]:
        relay.take(data[:cut], 0.0)
        data = data[cut:]
        passed += bytes(relay.waiting)
        relay.written(len(relay.waiting))
    relay.let_go(0.0, at_once=True)
    passed += bytes(relay.waiting)

    assert passed == b"\n".join(parts)
    assert not relay.counts


def within_watch(script: str) -> list[str]:
    """The command that runs Python code within a `handshake_watch`, as a process of its own."""
    code = "from handclasp.serving.handshake_watch import handshake_watch\nimport os, sys\nwith handshake_watch():\n"
    return [sys.executable, "-c", code + textwrap.indent(textwrap.dedent(script), "    ")]


@pytest.mark.parametrize(
    "end",
    [
        "os.abort()",
        "os._exit(7)",
        "os.kill(os.getpid(), 9)",
        "import ctypes; ctypes.string_at(0)",
        "raise KeyError('the end')",
    ],
)
def test_nothing_is_lost_however_the_process_ends(end: str) -> None:
    said = "".join(f"word {number}\n" for number in range(2000)) + "last word, without an end"
    script = f"""
        os.write(2, {said!r}.encode())
        {end}
        """
    variables = {**os.environ, "PYTHONFAULTHANDLER": "1"}
    ended = subprocess.run(within_watch(script), capture_output=True, timeout=PATIENCE, check=False, env=variables)
    assert ended.returncode != 0
    # What Python itself says goes another way, and may come before or in between.
    errors = ended.stderr.decode()
    assert all(f"word {number}\n" in errors for number in range(2000))
    assert "last word, without an end" in errors
    if "raise" in end:
        assert "KeyError: 'the end'" in errors
    if "abort" in end or "ctypes" in end:
        assert "Fatal Python error" in errors


def test_a_standard_error_that_nobody_reads_holds_nobody_up() -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb"), os.fdopen(writing, "wb") as blocked:
        script = r"""
            for number in range(8):
                os.write(2, (b'x' * 1023 + b'\n') * 1024)
            print('gone on', flush=True)
            """
        process = subprocess.Popen(within_watch(script), stdout=subprocess.PIPE, stderr=blocked)
        assert process.stdout is not None
        assert process.stdout.readline() == b"gone on\n"
        assert process.wait(PATIENCE) == 0
        process.stdout.close()


def test_what_standard_error_did_not_take_is_counted() -> None:
    relay = Relay(b"EF")
    line = b"x" * 1023 + b"\n"
    for _ in range(stderr_relay.MOST_WAITING // len(line) + 5):
        relay.take(line, 0.0)
    relay.written(len(relay.waiting))
    assert b"5 lines are missing" in relay.waiting


def test_a_prompt_does_not_wait_for_its_line_to_end() -> None:
    script = "os.write(2, b'Is that so? '); sys.stdin.read()"
    process = subprocess.Popen(within_watch(script), stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stderr is not None
    assert process.stdin is not None
    assert os.read(process.stderr.fileno(), 100) == b"Is that so? "
    process.stdin.close()
    assert process.wait(PATIENCE) == 0
    process.stderr.close()


def test_the_process_and_those_that_it_starts_see_their_environment_unchanged() -> None:
    script = """
        import subprocess
        print(os.environ.get('GRPC_VERBOSITY'), flush=True)
        subprocess.run(['sh', '-c', 'echo to standard error >&2; echo to the device > /dev/stderr'])
        """
    variables = {name: value for name, value in os.environ.items() if name != "GRPC_VERBOSITY"}
    ended = subprocess.run(within_watch(script), capture_output=True, timeout=PATIENCE, check=True, env=variables)
    assert ended.stdout == b"None\n"
    assert ended.stderr == b"to standard error\nto the device\n"
