"""`handclasp admin token` and `handclasp enroll`: what is sent, what is written, and what is left after a refusal."""

from __future__ import annotations

import os
import pty
import re
import shlex
import stat
import subprocess
import termios
from functools import partial
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from handclasp.certificates.v1.enrollment_token_pb2 import EnrollmentToken
from handclasp.client import context as contexts
from handclasp.client import files
from handclasp.errors import Reason, Unauthenticated
from tests.e2e.processes import HANDCLASP, environment, wait_until
from tests.support.outside_ca import CLIENT_AUTH, SERVER_AUTH
from tests.unit.cli.conftest import Handclasp
from tests.unit.client.small_service import TOKEN, Small

REFUSED = Unauthenticated(Reason.ENROLLMENT_TOKEN_USED, "the enrollment token was used")


@pytest.fixture
def bare(bare: Handclasp) -> Handclasp:
    """The command without any context; the token comes by standard input."""
    return partial(bare, stdin=f"{TOKEN}\n")


def enrolling(small: Small, out: Path, *more: str | Path, url: str = "") -> tuple[str | Path, ...]:
    fingerprint = ("--ca-fingerprint", small.fingerprint)
    return ("enroll", *fingerprint, "--url", url or small.tls, "--out", out, *(more or ("--token-file", "-")))


def test_a_token_comes_with_the_command_to_type(handclasp: Handclasp, small: Small) -> None:
    ran = handclasp("admin", "token", "--user", "alice", "--server-name", "a.example", "--expires-in", "2h")
    assert ran.status == 0
    [seen] = small.asked("CreateEnrollmentToken")
    assert (seen.request.user, list(seen.request.server_names)) == ("users/alice", ["a.example"])
    assert seen.request.lifetime.seconds == 7200
    (line,) = (line for line in ran.out.splitlines() if line.startswith("  handclasp enroll "))
    assert shlex.split(line) == [
        *("handclasp", "enroll", "--token-file", "-", "--ca-fingerprint", small.fingerprint, "--url", small.tls),
        *("--out", "alice", "--executions", small.mtls),
    ]
    assert "put in the name by which that machine reaches it" in ran.out


def test_a_mutual_listener_elsewhere_is_part_of_the_command(
    handclasp: Handclasp, small: Small, context_file: Path
) -> None:
    text = context_file.read_text()
    context_file.write_text(text.replace(f'certificates_mtls = "{small.mtls}"', f'certificates_mtls = "{both(small)}"'))
    command = handclasp("admin", "token", "--user", "alice", "-o", "json").json["command"]
    words = shlex.split(command)
    assert words[words.index("--certificates-mtls") + 1] == both(small)


def test_one_of_several_services_is_where_the_other_machine_goes(
    handclasp: Handclasp, small: Small, context_file: Path
) -> None:
    text = context_file.read_text()
    several = f"{small.tls},localhost:1"
    context_file.write_text(text.replace(f'certificates_tls = "{small.tls}"', f'certificates_tls = "{several}"'))
    made = handclasp("admin", "token", "--user", "alice", "-o", "json").json
    words = shlex.split(made["command"])
    assert words[words.index("--url") + 1] == made["url"] == small.tls, "`enroll` takes one"


def both(small: Small) -> str:
    """Two addresses, one of which is of the service."""
    return f"{small.mtls},localhost:{small.mtls_port}"


def test_the_start_of_an_execution_server_has_the_port_that_the_service_says(
    bare: Handclasp, small: Small, tmp_path: Path
) -> None:
    small.enrolled_purposes = (CLIENT_AUTH, SERVER_AUTH)
    ran = bare(*enrolling(small, tmp_path / "out"))
    assert f"handclasp serve executions --certificate-service {small.mtls} --ca " in ran.out


def test_no_token_is_made_that_cannot_be_shown(handclasp: Handclasp, small: Small) -> None:
    small.refuse["GetTrustBundle"] = [grpc.StatusCode.UNAVAILABLE]
    assert handclasp("admin", "token", "--user", "alice").status == 1
    assert not small.asked("CreateEnrollmentToken")


def test_a_token_as_json(handclasp: Handclasp, small: Small) -> None:
    made = handclasp("admin", "token", "--user", "alice", "-o", "json").json
    assert (made["token"], made["url"], made["ca_fingerprint"]) == (TOKEN, small.tls, small.fingerprint)
    assert made["command"].startswith("handclasp enroll --token-file - ")
    assert TOKEN not in made["command"]
    [seen] = small.asked("CreateEnrollmentToken")
    assert not seen.request.HasField("lifetime")


def test_what_was_made_can_be_typed(handclasp: Handclasp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = handclasp("admin", "token", "--user", "alice", "-o", "json").json["command"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HANDCLASP_CONTEXT")
    assert handclasp(*shlex.split(command)[1:], stdin=f"{TOKEN}\n").status == 0
    assert sorted(path.name for path in (tmp_path / "alice").iterdir()) == [
        *("ca.pem", "cert.pem", "context.toml", "key.pem")
    ]


def test_enrolling_writes_all_that_is_needed(bare: Handclasp, small: Small, tmp_path: Path) -> None:
    out = tmp_path / "new" / "alice"
    ran = bare(*enrolling(small, out, "--token-file", "-", "--executions", "run.example:8443", "-o", "json"))
    assert ran.status == 0
    assert ran.json["user"] == "users/alice"
    leaf = x509.load_pem_x509_certificates((out / "cert.pem").read_bytes())[0]
    key = load_pem_private_key((out / "key.pem").read_bytes(), None)
    assert key.public_key() == leaf.public_key()
    assert (out / "ca.pem").read_text() == small.root.pem
    assert {stat.S_IMODE((out / name).stat().st_mode) for name in ("key.pem", "context.toml")} == {0o600}
    context = contexts.load(out / "context.toml")
    assert (context.certificates_tls, context.certificates_mtls) == (small.tls, small.mtls)
    assert context.executions == "run.example:8443"
    assert (context.certificate, context.key) == (out / "cert.pem", out / "key.pem")
    [seen] = small.asked("Enroll")
    assert seen.request.token == TOKEN
    assert (seen.authorization, seen.common_name) == (None, "")
    assert TOKEN not in ran.out


@pytest.mark.parametrize("way", ["file", "-"])
def test_the_token_from_a_file(bare: Handclasp, small: Small, tmp_path: Path, way: str) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    file.chmod(0o600)
    given = file if way == "file" else "-"
    ran = bare(*enrolling(small, tmp_path / "out", "--token-file", given), stdin=f"{TOKEN}\n" if way == "-" else "")
    assert ran.status == 0
    assert small.asked("Enroll")[0].request.token == TOKEN


def test_a_token_among_the_arguments_is_taken_and_named_as_visible(
    bare: Handclasp, small: Small, tmp_path: Path
) -> None:
    ran = bare(*enrolling(small, tmp_path / "out", "--token", TOKEN, "-o", "json"))
    assert ran.json["user"] == "users/alice"
    assert ran.err.startswith("NOTE: other users of this machine can see")
    assert "--token-file" in ran.err
    assert TOKEN not in ran.err


@pytest.mark.parametrize("more", [("--token-file", "-"), ("--key-type", "p256")])
def test_the_token_is_asked_for_at_a_terminal(small: Small, tmp_path: Path, more: tuple[str, ...]) -> None:
    """And is not seen on it."""
    ours, theirs = pty.openpty()
    command = [HANDCLASP, *enrolling(small, tmp_path / "out", *more)]
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment(), start_new_session=True
    )
    try:
        # What is typed earlier is thrown away, and shown.
        wait_until(lambda: not termios.tcgetattr(theirs)[3] & termios.ECHO, "it asks")
        os.write(ours, f"{TOKEN}\n".encode())
        assert process.wait(30) == 0
        seen = os.read(ours, 65536)
    finally:
        process.kill()
        os.close(ours)
        os.close(theirs)
    assert seen.startswith(b"Token")
    assert small.asked("Enroll")[0].request.token == TOKEN
    assert TOKEN.encode() not in seen


def test_a_token_file_that_others_can_read(bare: Handclasp, small: Small, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    file.chmod(0o644)
    ran = bare(*enrolling(small, tmp_path / "out", "--token-file", file))
    assert (ran.status, ran.err.partition(":")[0]) == (5, "FILE_OPEN_TO_OTHERS")
    assert small.seen == []


@pytest.mark.parametrize("more", [("--key-type", "p256"), ("--token", TOKEN, "--token-file", "-")])
def test_one_token_is_needed(bare: Handclasp, small: Small, tmp_path: Path, more: tuple[str, ...]) -> None:
    ran = bare(*enrolling(small, tmp_path / "out", *more))
    assert (ran.status, small.seen) == (2, [])


@pytest.mark.parametrize("more", [(), ("--token-file", "-", "--replica")])
def test_a_folder_that_anybody_can_write_in(
    bare: Handclasp, small: Small, tmp_path: Path, more: tuple[str, ...]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    out.chmod(0o777)
    ran = bare(*enrolling(small, out, *more), stdin=f"{TOKEN}\n")
    assert ran.status != 0
    assert "chmod 700" in ran.err
    assert (small.asked("Enroll"), small.asked("EnrollReplica"), list(out.iterdir())) == ([], [], [])


def test_another_ca_is_told_nothing(bare: Handclasp, small: Small, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = [*enrolling(small, out)]
    arguments[arguments.index(small.fingerprint)] = "0" * 64
    ran = bare(*arguments)
    assert (ran.status, ran.err.partition(":")[0]) == (3, "CA_FINGERPRINT_MISMATCH")
    assert not small.asked("Enroll")
    assert not out.exists()


def test_the_wrong_port(bare: Handclasp, small: Small, tmp_path: Path) -> None:
    ran = bare(*enrolling(small, tmp_path / "out", url=small.mtls))
    assert ran.status == 3
    assert "one-way TLS port" in ran.err


def everything_in(folder: Path) -> dict[str, bytes | None]:
    return {str(path.relative_to(folder)): None if path.is_dir() else path.read_bytes() for path in folder.rglob("*")}


@pytest.mark.parametrize("more", [(), ("--replica",)])
@pytest.mark.parametrize("there", [None, "new/note.txt", "new/ca.pem", "new/keys/note.txt"])
def test_a_refusal_leaves_what_was_there(
    bare: Handclasp, small: Small, tmp_path: Path, there: str | None, more: tuple[str, ...]
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    if there is not None:
        (home / there).parent.mkdir(parents=True)
        (home / "new").chmod(0o700)
        (home / there).write_text(small.root.pem)
    before = everything_in(home)
    for method in ("Enroll", "EnrollReplica"):
        small.refuse[method] = [REFUSED]
    ran = bare(*enrolling(small, home / "new", "--token-file", "-", *more))
    if there == "new/ca.pem" and more:
        assert (ran.status, ran.err.partition(":")[0]) == (1, "ENROLLMENT_NOT_POSSIBLE")
    else:
        assert (ran.status, ran.err.partition(":")[0]) == (3, "ENROLLMENT_TOKEN_USED")
    assert everything_in(home) == before


@pytest.mark.parametrize("more", [(), ("--replica",)])
def test_a_refusal_after_a_lost_answer_leaves_the_key(
    bare: Handclasp, small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...]
) -> None:
    """A certificate may have been issued for it, and somebody may find a way to it."""
    monkeypatch.setattr("handclasp.client.retries.repeat_if_lost.__defaults__", ((),))
    out = tmp_path / "out"
    for method in ("Enroll", "EnrollReplica"):
        small.refuse[method] = [grpc.StatusCode.UNAVAILABLE, REFUSED]
    assert bare(*enrolling(small, out, "--token-file", "-", *more)).status == 1
    before = everything_in(out)
    assert any(name.endswith(".pem") and b"PRIVATE KEY" in (content or b"") for name, content in before.items())
    assert bare(*enrolling(small, out, "--token-file", "-", *more)).status == 3
    assert everything_in(out) == before


def test_a_lost_answer_leaves_the_key_for_the_next_try(
    bare: Handclasp, small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("handclasp.client.retries.repeat_if_lost.__defaults__", ((),))
    out = tmp_path / "out"
    small.refuse["Enroll"] = [grpc.StatusCode.UNAVAILABLE]
    ran = bare(*enrolling(small, out))
    assert ran.status == 1
    assert re.search(r"may have been issued.*the same command again", ran.err)
    key = (out / "key.pem").read_bytes()
    assert bare(*enrolling(small, out)).status == 0
    assert (out / "key.pem").read_bytes() == key
    first, second = (x509.load_pem_x509_csr(seen.request.csr_pem.encode()) for seen in small.asked("Enroll"))
    assert first.public_key() == second.public_key()


@pytest.mark.parametrize("name", ["cert.pem", "context.toml"])
def test_what_cannot_be_written_is_got_by_the_same_command_again(
    bare: Handclasp, small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    out = tmp_path / "out"
    fill = files.NewFile.fill

    def full(file: files.NewFile, content: bytes) -> None:
        if file.path.name == name:
            raise files.unusable(file.path, "the new file", OSError(28, "No space left on device"))
        fill(file, content)

    with monkeypatch.context() as patched:
        patched.setattr(files.NewFile, "fill", full)
        ran = bare(*enrolling(small, out))
    assert ran.status == 5
    assert re.search(r"No space left.*is issued, for the key in .*key\.pem; the same command again", ran.err)
    key = (out / "key.pem").read_bytes()
    assert bare(*enrolling(small, out)).status == 0
    assert (out / "key.pem").read_bytes() == key


@pytest.mark.parametrize("name", ["cert.pem", "context.toml", "ca.pem"])
def test_nothing_is_overwritten(bare: Handclasp, small: Small, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    ran = bare(*enrolling(small, tmp_path))
    assert (ran.status, ran.err.partition(":")[0]) == (1, "FILE_EXISTS")
    assert (tmp_path / name).read_text() == "mine"
    assert not (tmp_path / "key.pem").exists()
    assert not small.asked("Enroll")


def test_tokens_that_are_good_are_listed(handclasp: Handclasp, small: Small) -> None:
    found = handclasp("admin", "tokens", "-o", "json").json["enrollment_tokens"]
    assert [(token["id"], token["token"]) for token in found] == [("t1", ""), ("t2", "")]
    ran = handclasp("admin", "tokens", "--user", "alice", "--limit", "5")
    first, second = (line.split() for line in ran.out.splitlines() if line.startswith("t"))
    assert first == ["t1", "alice", "a.example", "clerk"]
    assert second == ["t2", "a", "replica"]
    assert [(seen.request.user, seen.request.page_size) for seen in small.seen] == [("", 0), ("users/alice", 5)]


def test_a_token_is_taken_back(handclasp: Handclasp, small: Small) -> None:
    assert handclasp("admin", "revoke-token", "t1").out == "enrollmentTokens/t1 is good for nothing any more.\n"
    assert handclasp("admin", "revoke-token", "enrollmentTokens/t1", "-o", "json").json == {
        "revoked": "enrollmentTokens/t1"
    }
    assert {seen.request.name for seen in small.asked("RevokeEnrollmentToken")} == {"enrollmentTokens/t1"}


def test_a_token_for_a_replica(handclasp: Handclasp, small: Small) -> None:
    ran = handclasp("admin", "token", "--replica")
    assert ran.status == 0
    [seen] = small.asked("CreateEnrollmentToken")
    assert (seen.request.user, seen.request.purpose) == ("", EnrollmentToken.PURPOSE_REPLICA)
    (line,) = (line for line in ran.out.splitlines() if line.startswith("  handclasp enroll "))
    assert shlex.split(line) == [
        *("handclasp", "enroll", "--replica", "--token-file", "-", "--ca-fingerprint", small.fingerprint),
        *("--url", small.tls, "--out", "handclasp-data"),
    ]
    assert "can issue certificates for anybody" in ran.out


@pytest.mark.parametrize("given", [(), ("--replica", "--user", "alice"), ("--replica", "--server-name", "a.example")])
def test_a_token_is_for_a_user_or_for_a_replica(handclasp: Handclasp, small: Small, given: tuple[str, ...]) -> None:
    assert handclasp("admin", "token", *given).status == 2
    assert small.seen == []


def test_a_replica_gets_a_data_folder(bare: Handclasp, small: Small, tmp_path: Path) -> None:
    out = tmp_path / "data"
    ran = bare(*enrolling(small, out, "--token-file", "-", "--replica"))
    assert ran.status == 0
    assert (out / "ca.pem").read_text() == small.root.pem
    (key_file,) = (out / "keys").glob("*.pem")
    key = load_pem_private_key(key_file.read_bytes(), None)
    [seen] = small.asked("EnrollReplica")
    assert x509.load_pem_x509_csr(seen.request.csr_pem.encode()).public_key() == key.public_key()
    assert {stat.S_IMODE(path.stat().st_mode) for path in (out, out / "keys")} == {0o700}
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    (line,) = (line for line in ran.out.splitlines() if "handclasp serve certificates" in line)
    assert line.startswith("  HANDCLASP_CERTIFICATES_DATABASE_URL=URL ")
    assert "--trust-domain small.example" in line
    again = bare(*enrolling(small, out, "--token-file", "-", "--replica"))
    assert (again.status, again.err.partition(":")[0]) == (1, "ENROLLMENT_NOT_POSSIBLE")


def test_a_ca_certificate_of_somebody_elses_is_not_taken(bare: Handclasp, small: Small, tmp_path: Path) -> None:
    small.root_for_replicas = small.issuing
    ran = bare(*enrolling(small, tmp_path / "data", "--token-file", "-", "--replica"))
    assert (ran.status, ran.err.partition(":")[0]) == (1, "ENROLLMENT_NOT_POSSIBLE")
    assert not (tmp_path / "data" / "ca.pem").exists()


def test_a_replica_has_no_context_file(bare: Handclasp, small: Small, tmp_path: Path) -> None:
    more = ("--token-file", "-", "--replica", "--executions", "run.example:8443")
    assert bare(*enrolling(small, tmp_path / "data", *more)).status == 2
    assert small.seen == []
