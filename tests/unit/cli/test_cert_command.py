"""`handclasp cert`: files, keys, and what happens when something fails on the way."""

from __future__ import annotations

import stat
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.hazmat.primitives.serialization.pkcs12 import serialize_key_and_certificates

from handclasp.certificates.v1 import certificate_service_pb2 as messages
from handclasp.certificates.v1.certificate_pb2 import (
    REVOCATION_REASON_KEY_COMPROMISE,
    REVOCATION_REASON_NONE_GIVEN,
    REVOCATION_REASON_SUPERSEDED,
    Certificate,
    Hold,
    Revocation,
)
from handclasp.client.possession import make_statement
from handclasp.errors import HandclaspError, NotFound, PermissionDenied, Reason
from tests.support.outside_ca import OutsideCA
from tests.unit.cli.conftest import Handclasp
from tests.unit.client import small_service
from tests.unit.client.small_service import Small


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def are_a_pair(out: Path) -> bool:
    leaf = x509.load_pem_x509_certificates((out / "cert.pem").read_bytes())[0]
    return load_pem_private_key((out / "key.pem").read_bytes(), None).public_key() == leaf.public_key()


@pytest.mark.parametrize(
    "options", [(), ("--server-key",), ("--key-type", "p384"), ("--server-key", "--key-type=p384")]
)
def test_issue_writes_a_pair_and_says_what(
    handclasp: Handclasp, small: Small, out: Path, options: tuple[str, ...]
) -> None:
    ran = handclasp("cert", "issue", "--user", "alice", "--out", out, *options, "-o", "json")
    assert (ran.status, ran.err) == (0, "")
    assert are_a_pair(out)
    assert len(x509.load_pem_x509_certificates((out / "cert.pem").read_bytes())) == 2
    assert stat.S_IMODE((out / "key.pem").stat().st_mode) == 0o600
    assert ran.json["id"] == "c1"
    assert ran.json["name"] == "certificates/c1"
    assert ran.json["user"] == "users/alice"
    assert {"serial", "fingerprint", "not_after"} <= ran.json.keys()
    assert ran.json["certificate_file"] == str(out / "cert.pem")
    assert ran.json["key_file"] == str(out / "key.pem")
    assert "PRIVATE KEY" not in ran.out
    [seen] = small.seen
    if "--server-key" in options:
        kind = messages.KEY_ALGORITHM_EC_P384 if len(options) == 2 else messages.KEY_ALGORITHM_EC_P256
        assert seen.request.generate_key == kind
    else:
        assert "PRIVATE" not in seen.request.csr_pem


def test_issue_passes_everything_on(handclasp: Handclasp, small: Small, out: Path) -> None:
    options = ("--lifetime", "90m", "--description", "for tests", "--label", "a=1", "--label", "b=x=y")
    names = ("--server-name", "run.example", "--server-name", "127.0.0.1")
    assert handclasp("cert", "issue", "--user", "users/alice", "--out", out, *options, *names).status == 0
    [seen] = small.seen
    assert seen.request.lifetime.seconds == 90 * 60
    assert dict(seen.request.labels) == {"a": "1", "b": "x=y"}
    assert (seen.request.user, seen.request.description) == ("users/alice", "for tests")
    assert list(seen.request.server_names) == ["run.example", "127.0.0.1"]
    assert seen.request.request_id


def test_issue_for_a_request_writes_no_key(handclasp: Handclasp, out: Path, tmp_path: Path) -> None:
    assert handclasp("csr", "new", "--out", tmp_path / "mine").status == 0
    issue = ("cert", "issue", "--user", "alice", "--csr", tmp_path / "mine" / "request.csr", "--out", out)
    ran = handclasp(*issue, "-o", "json")
    assert ran.status == 0
    assert ran.json["key_file"] is None
    assert [path.name for path in out.iterdir()] == ["cert.pem"]
    (out / "key.pem").write_bytes((tmp_path / "mine" / "key.pem").read_bytes())
    assert are_a_pair(out)


@pytest.mark.parametrize("name", ["key.pem", "cert.pem"])
@pytest.mark.parametrize("options", [(), ("--server-key",)])
def test_nothing_is_issued_if_a_file_is_there(
    handclasp: Handclasp, small: Small, out: Path, name: str, options: tuple[str, ...]
) -> None:
    out.mkdir()
    (out / name).write_text("mine")
    ran = handclasp("cert", "issue", "--user", "alice", "--out", out, *options)
    assert ran.status == 1
    assert ran.err.startswith("FILE_EXISTS: ")
    assert not small.seen
    assert [path.name for path in out.iterdir()] == [name]
    assert (out / name).read_text() == "mine"


@pytest.mark.parametrize("options", [(), ("--server-key",)])
def test_a_refusal_leaves_no_files(handclasp: Handclasp, small: Small, out: Path, options: tuple[str, ...]) -> None:
    small.refuse["IssueCertificate"] = [NotFound(Reason.USER_NOT_FOUND, "there is no user alice; look at the list")]
    ran = handclasp("cert", "issue", "--user", "alice", "--out", out, *options)
    assert (ran.status, ran.err) == (4, "USER_NOT_FOUND: there is no user alice; look at the list\n")
    assert not out.exists()


def test_a_lost_answer_is_asked_for_again(handclasp: Handclasp, small: Small, out: Path) -> None:
    small.refuse["IssueCertificate"] = [grpc.StatusCode.UNAVAILABLE]
    assert handclasp("cert", "issue", "--user", "alice", "--out", out).status == 0
    assert len({seen.request.request_id for seen in small.seen}) == 1
    assert are_a_pair(out)


def test_a_key_made_by_the_service_and_lost_on_the_way(handclasp: Handclasp, small: Small, out: Path) -> None:
    small.refuse["IssueCertificate"] = [grpc.StatusCode.UNAVAILABLE]
    ran = handclasp("cert", "issue", "--user", "alice", "--server-key", "--out", out)
    assert ran.status == 1
    assert ran.err.startswith("KEY_NOT_RETAINED: ")
    assert "`handclasp cert revoke c1`" in ran.err
    assert not out.exists()


@pytest.mark.parametrize(
    "refusals",
    [
        [grpc.StatusCode.DEADLINE_EXCEEDED],
        # The first attempt's answer was lost, so that what is said to the second proves nothing.
        [grpc.StatusCode.UNAVAILABLE, NotFound(Reason.USER_NOT_FOUND, "there is no user alice")],
    ],
)
def test_the_key_is_kept_if_a_certificate_may_have_been_issued(
    handclasp: Handclasp, small: Small, out: Path, refusals: list[HandclaspError | grpc.StatusCode]
) -> None:
    small.refuse["IssueCertificate"] = [*refusals]
    ran = handclasp("cert", "issue", "--user", "alice", "--out", out)
    assert ran.status == 1
    assert "may have been issued" in ran.err
    assert str(out / "key.pem") in ran.err
    assert [path.name for path in out.iterdir()] == ["key.pem"]
    assert load_pem_private_key((out / "key.pem").read_bytes(), None)


def test_upload_with_key_proves_possession(handclasp: Handclasp, small: Small, tmp_path: Path) -> None:
    leaf = OutsideCA().intermediate().issue("partner")
    (tmp_path / "cert.pem").write_text(leaf.pem)
    (tmp_path / "key.pem").write_text(leaf.key_pem)
    (tmp_path / "key.pem").chmod(0o600)
    ran = handclasp(
        "cert", "upload", "--user", "alice", tmp_path / "cert.pem", "--key", tmp_path / "key.pem", "-o", "json"
    )
    assert (ran.status, ran.json["id"]) == (0, "up")
    [seen] = small.asked("UploadCertificate")
    assert seen.request.pem == leaf.pem
    proof = seen.request.possession_proof
    dated = proof.statement.splitlines()[-1]
    assert proof.statement == make_statement(
        trust_domain=small_service.TRUST_DOMAIN,
        user_id="alice",
        fingerprint=leaf.certificate.fingerprint(hashes.SHA256()).hex(),
        signed_at=datetime.fromisoformat(dated),
    )
    assert proof.signature
    assert leaf.key_pem not in str(seen.request)


def test_upload_of_der_without_key(handclasp: Handclasp, small: Small, tmp_path: Path) -> None:
    leaf = OutsideCA().issue()
    (tmp_path / "cert.der").write_bytes(leaf.der)
    assert handclasp("cert", "upload", tmp_path / "cert.der", "--user", "bob").status == 0
    [seen] = small.seen
    assert seen.request.der == leaf.der
    assert not seen.request.HasField("possession_proof")


def test_list_with_filters(handclasp: Handclasp, small: Small) -> None:
    ran = handclasp(
        *("cert", "list", "--user", "alice", "--state", "active", "--state", "not-yet-valid", "--state", "on-hold"),
        *("--serial", "0a:bc", "--fingerprint", "ff"),
        *("--expires-before", "2030-01-31", "--expires-after", "2029-01-31T12:00:00+02:00"),
        *("--limit", "2", "-o", "json"),
    )
    assert [certificate["id"] for certificate in ran.json["certificates"]] == ["c0", "c1"]
    [seen] = small.seen
    assert seen.request.user == "users/alice"
    states = [Certificate.STATE_ACTIVE, Certificate.STATE_NOT_YET_VALID, Certificate.STATE_ON_HOLD]
    assert list(seen.request.states) == states
    assert (seen.request.serial, seen.request.fingerprint) == ("0a:bc", "ff")
    assert seen.request.expire_before.ToJsonString() == "2030-01-31T00:00:00Z"
    assert seen.request.expire_after.ToJsonString() == "2029-01-31T10:00:00Z"


def test_show_fits_the_terminal_and_does_not_steer_it(handclasp: Handclasp) -> None:
    ran = handclasp("cert", "show", "c1")
    assert ran.status == 0
    assert "\x1b" not in ran.out
    assert "[bold]odd[/bold] \\x1b[31mred" in ran.out
    assert "f" * 64 in ran.out
    assert max(map(len, ran.out.splitlines())) <= 80


def test_download(handclasp: Handclasp, tmp_path: Path) -> None:
    printed = handclasp("cert", "download", "certificates/c1").out
    assert printed.startswith("-----BEGIN CERTIFICATE-----\n")
    out = tmp_path / "c1.pem"
    assert handclasp("cert", "download", "c1", "--out", out).status == 0
    assert out.read_text() == printed
    assert handclasp("cert", "download", "c1", "--out", out).status == 1


def test_update_names_what_changes(handclasp: Handclasp, small: Small) -> None:
    assert handclasp("cert", "update", "c1", "--description", "", "--no-labels").status == 0
    [seen] = small.seen
    assert list(seen.request.update_mask.paths) == ["description", "labels"]
    assert handclasp("cert", "update", "c1").status == 2


def test_revoke_one_or_all(handclasp: Handclasp, small: Small) -> None:
    assert handclasp("cert", "revoke", "c1", "--reason", "key-compromise").status == 0
    ran = handclasp("cert", "revoke", "--user", "alice", "--all", "-o", "json")
    barrier = {"revision": 7, "acknowledged": 2, "leases_ended": 0, "rights_lost": 0}
    assert ran.json == {"user": "users/alice", "revoked_count": 2, "in_force": barrier}
    one, every = small.seen
    assert (one.request.name, one.request.reason) == ("certificates/c1", REVOCATION_REASON_KEY_COMPROMISE)
    assert (every.request.user, every.request.reason) == ("users/alice", REVOCATION_REASON_NONE_GIVEN)


@pytest.mark.parametrize(
    "args", [(), ("c1", "--all"), ("--user", "alice"), ("c1", "--user", "alice", "--all"), ("--all",)]
)
def test_revoke_says_clearly_what(handclasp: Handclasp, small: Small, args: tuple[str, ...]) -> None:
    ran = handclasp("cert", "revoke", *args)
    assert ran.status == 2
    assert not small.seen


def test_a_denial_tells_how_to_ask_why(handclasp: Handclasp, small: Small) -> None:
    denied = PermissionDenied(Reason.ACCESS_DENIED, "you may not\nrevoke this", metadata={"decision": "decisions/d1"})
    small.refuse["RevokeCertificate"] = [denied]
    ran = handclasp("cert", "revoke", "c1")
    assert ran.status == 3
    assert len(ran.err.splitlines()) == 1
    assert ran.err == "ACCESS_DENIED: you may not revoke this (administrators see why: `handclasp explain d1`)\n"


def test_revoking_by_a_users_id_tells_how(handclasp: Handclasp, small: Small) -> None:
    small.refuse["RevokeCertificate"] = [NotFound(Reason.CERTIFICATE_NOT_FOUND, "there is no certificates/alice")]
    ran = handclasp("cert", "revoke", "alice")
    assert ran.status == 4
    assert "--user NAME --all" in ran.err


def test_the_first_revocation_stays(handclasp: Handclasp, small: Small) -> None:
    small.revocation = Revocation(reason=REVOCATION_REASON_SUPERSEDED)
    small.revocation.revoke_time.FromDatetime(datetime(2026, 1, 31, 12, tzinfo=UTC))
    ran = handclasp("cert", "revoke", "c1", "--reason", "key-compromise")
    assert ran.status == 0
    assert "was revoked already at 2026-01-31T12:00:00Z: SUPERSEDED; that stays" in ran.out
    assert "is revoked." in handclasp("cert", "revoke", "c1", "--reason", "superseded").out


@pytest.mark.parametrize(("count", "said"), [(0, "0 certificates of alice are"), (1, "1 certificate of alice is")])
def test_how_many_were_revoked(handclasp: Handclasp, small: Small, count: int, said: str) -> None:
    small.revoked_count = count
    assert handclasp("cert", "revoke", "--user", "alice", "--all").out.splitlines()[0] == f"{said} revoked."


def test_hold_and_reinstate(handclasp: Handclasp, small: Small) -> None:
    small.hold = Hold(held_by="users/admin")
    small.hold.hold_time.FromDatetime(datetime(2026, 1, 31, 12, tzinfo=UTC))
    ran = handclasp("cert", "hold", "c1")
    assert (ran.status, ran.err) == (0, "")
    assert ran.out.splitlines() == [
        "certificates/c1 of users/alice is on hold since 2026-01-31T12:00:00Z.",
        "In force: 2 relying parties acknowledged.",
    ]
    held = handclasp("cert", "hold", "certificates/c1", "-o", "json").json
    assert (held["id"], held["state"], held["hold"]["held_by"]) == ("c1", "STATE_ON_HOLD", "users/admin")
    ran = handclasp("cert", "reinstate", "c1")
    assert ran.out.splitlines()[0] == "certificates/c1 of users/alice is not on hold; its state is ACTIVE."
    assert handclasp("cert", "reinstate", "c1", "-o", "json").json["state"] == "STATE_ACTIVE"
    assert {seen.request.name for seen in small.seen} == {"certificates/c1"}


@pytest.mark.parametrize("args", [("cert", "hold"), ("cert", "reinstate"), ("user", "disable")])
def test_what_does_the_same_again_is_repeated_if_its_answer_is_lost(
    handclasp: Handclasp, small: Small, args: tuple[str, str]
) -> None:
    method = {"hold": "HoldCertificate", "reinstate": "ReinstateCertificate", "disable": "DisableUser"}[args[1]]
    small.refuse[method] = [grpc.StatusCode.UNAVAILABLE]
    assert handclasp(*args, "c1").status == 0
    assert len(small.asked(method)) == 2


def test_show_says_since_when_it_is_on_hold_and_what_it_renewed(handclasp: Handclasp, small: Small) -> None:
    assert "on hold since" not in handclasp("cert", "show", "c1").out
    small.hold = Hold(held_by="users/admin")
    small.hold.hold_time.FromDatetime(datetime(2026, 1, 31, 12, tzinfo=UTC))
    small.renewed_from = "certificates/c0"
    lines = [" ".join(line.split()) for line in handclasp("cert", "show", "c1").out.splitlines()]
    assert "on hold since 2026-01-31T12:00:00Z by users/admin" in lines
    assert "renewed from certificates/c0" in lines


@pytest.mark.parametrize("given", [(), ("c0",), ("certificates/c0",)])
def test_renew_makes_a_new_key_for_the_certificate_of_the_context(
    handclasp: Handclasp, small: Small, out: Path, given: tuple[str, ...]
) -> None:
    ran = handclasp("cert", "renew", *given, "--out", out, "--lifetime", "12h", "-o", "json")
    assert (ran.status, ran.err) == (0, "")
    assert are_a_pair(out)
    assert stat.S_IMODE((out / "key.pem").stat().st_mode) == 0o600
    assert (ran.json["id"], ran.json["renewed_from"]) == ("c1", "certificates/c0")
    assert ran.json["key_file"] == str(out / "key.pem")
    (last,) = [seen.request for seen in small.seen]
    assert (last.name, last.lifetime.seconds) == ("certificates/c0" if given else "certificates/-", 12 * 3600)
    assert last.request_id
    assert "PRIVATE" not in last.csr_pem


def test_renew_takes_a_certificate_of_its_own(
    handclasp: Handclasp, small: Small, out: Path, tmp_path: Path, context_file: Path
) -> None:
    other = small.issuing.issue("carol")
    (tmp_path / "cert.pem").write_text(other.pem)
    (tmp_path / "key.pem").write_text(other.key_pem)
    (tmp_path / "key.pem").chmod(0o600)
    options = ("--cert", tmp_path / "cert.pem", "--key", tmp_path / "key.pem")
    assert handclasp("cert", "renew", "--out", out, *options).status == 0
    assert {seen.common_name for seen in small.seen} == {"carol"}
    assert handclasp("cert", "renew", "--out", out / "more", *options[:2]).status == 2
    assert handclasp("--as", "carol", "cert", "renew", "--out", out / "more").status == 2
    lines = [line for line in context_file.read_text().splitlines() if not line.startswith(("certificate =", "key ="))]
    context_file.write_text("\n".join(lines))
    ran = handclasp("cert", "renew", "--out", out / "more")
    assert (ran.status, ran.err.split(":")[0]) == (5, "CREDENTIALS_MISSING")
    assert not (out / "more").exists()


@pytest.mark.parametrize("given", [(), ("c0",)])
def test_a_lost_renewal_is_asked_for_again(
    handclasp: Handclasp, small: Small, out: Path, given: tuple[str, ...]
) -> None:
    small.refuse["RenewCertificate"] = [grpc.StatusCode.UNAVAILABLE]
    assert handclasp("cert", "renew", *given, "--out", out).status == 0
    assert len({seen.request.request_id for seen in small.seen}) == 1
    assert are_a_pair(out)


def test_renewing_what_one_does_not_hold(handclasp: Handclasp, out: Path) -> None:
    ran = handclasp("cert", "renew", "c7", "--out", out)
    assert (ran.status, ran.err) == (3, "NOT_THE_HOLDER: not yours\n")
    assert not out.exists()


def test_renewing_overwrites_nothing(handclasp: Handclasp, small: Small, out: Path) -> None:
    out.mkdir()
    (out / "key.pem").write_text("mine")
    assert handclasp("cert", "renew", "--out", out).err.startswith("FILE_EXISTS: ")
    assert not small.seen
    assert (out / "key.pem").read_text() == "mine"


def test_the_new_key_is_kept_if_the_renewal_may_have_been_done(handclasp: Handclasp, small: Small, out: Path) -> None:
    small.refuse["RenewCertificate"] = [grpc.StatusCode.DEADLINE_EXCEEDED]
    ran = handclasp("cert", "renew", "c0", "--out", out)
    assert ran.status == 1
    assert "may have been issued" in ran.err
    assert "`handclasp cert list`" in ran.err
    assert [path.name for path in out.iterdir()] == ["key.pem"]


@pytest.mark.parametrize("form", ["pem", "der", "encrypted", "beside", "pkcs12"])
@pytest.mark.parametrize(
    "args",
    [
        ("trust", "add"),
        ("cert", "upload", "--user", "alice"),
        ("cert", "issue", "--user", "alice", "--out", "o", "--csr"),
    ],
)
def test_private_keys_are_never_sent(
    handclasp: Handclasp, small: Small, tmp_path: Path, args: tuple[str, ...], form: str
) -> None:
    key, made = ec.generate_private_key(ec.SECP256R1()), small.issuing.issue("alice")
    encrypted = BestAvailableEncryption(b"secret")
    content = {
        "pem": made.key_pem.encode(),
        "der": key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
        "encrypted": key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, encrypted),
        "pkcs12": serialize_key_and_certificates(b"alice", key, None, None, encrypted),
        "beside": (made.pem + made.key_pem).encode(),
    }[form]
    (tmp_path / "wrong").write_bytes(content)
    ran = handclasp(*args, tmp_path / "wrong")
    assert ran.status == 5
    assert ran.err.startswith(f"FILE_NOT_USABLE: {tmp_path / 'wrong'} holds a private key; nothing was sent. Give ")
    assert not small.seen


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00+05:00", "9999-12-31T23:59:59-05:00"])
def test_a_time_that_utc_has_not_is_no_time(handclasp: Handclasp, time: str) -> None:
    ran = handclasp("cert", "list", "--expires-after", time)
    assert ran.status == 2
    assert f"{time!r} is not a time" in ran.err
