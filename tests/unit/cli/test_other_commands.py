"""The other commands: users, profiles, trust, running, explaining, the context file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from handclasp.authorization.v1.decision_pb2 import DECISION_REASON_ENROLLMENT_TOKEN_USED, Decision
from handclasp.authorization.v1.permission_pb2 import (
    PERMISSION_EXECUTE_INTEGRATIONS,
    PERMISSION_USER_MANAGEMENT,
    Grant,
)
from handclasp.authorization.v1.refusal_pb2 import Refusal
from handclasp.errors import FieldViolation, InvalidArgument, PermissionDenied, Reason
from tests.support.outside_ca import OutsideCA
from tests.unit.cli.conftest import Handclasp
from tests.unit.client.small_service import Small


def test_create_user(handclasp: Handclasp, small: Small, password_file: Path) -> None:
    create = ("user", "create", "bob", "--profile", "regular-user", "--profile", "accessProfiles/clerk")
    ran = handclasp(*create, "--password-file", password_file, "--display-name", "Bob", "-o", "json")
    assert (ran.status, ran.json["id"]) == (0, "bob")
    [seen] = small.seen
    assert (seen.request.user_id, seen.request.password) == ("bob", "correct horse battery")
    assert list(seen.request.user.access_profiles) == ["accessProfiles/regular-user", "accessProfiles/clerk"]
    assert seen.authorization is None
    assert "horse" not in ran.out


def test_a_new_users_password_on_standard_input(handclasp: Handclasp, small: Small) -> None:
    assert handclasp("user", "create", "users/bob", "--password-stdin", stdin="from stdin 123\n").status == 0
    [seen] = small.seen
    assert (seen.request.user_id, seen.request.password) == ("bob", "from stdin 123")


@pytest.mark.parametrize("place", ["before", "after"])
def test_log_in_by_password_before_and_after_the_subcommand(
    handclasp: Handclasp, small: Small, password_file: Path, place: str
) -> None:
    login = ("--as", "carol", "--password-file", str(password_file))
    args = (*login, "user", "list") if place == "before" else ("user", "list", *login)
    ran = handclasp(*args)
    assert ran.status == 0
    assert "alice" in ran.out
    [seen] = small.seen
    assert seen.authorization == "Basic Y2Fyb2w6Y29ycmVjdCBob3JzZSBiYXR0ZXJ5"


def test_the_context_before_and_after_the_subcommand(bare: Handclasp, small: Small, context_file: Path) -> None:
    for args in (
        ("--context", context_file, "user", "show", "alice"),
        ("user", "show", "alice", "--context", context_file),
    ):
        assert bare(*args).status == 0
    assert bare("user", "show", "alice").err.startswith("CONTEXT_NOT_FOUND: ")
    assert bare("--context", "absent", "user", "show", "alice", "--context", context_file).status == 0
    assert len(small.seen) == 3


def test_a_context_that_logs_in_by_password(bare: Handclasp, small: Small, tmp_path: Path, password_file: Path) -> None:
    (tmp_path / "ca.pem").write_text(small.root.pem)
    made = bare(
        *("context", "new", "--certificates-tls", small.tls, "--ca", tmp_path / "ca.pem", "--user", "dora"),
        *("--password-file", password_file),
    )
    assert made.status == 0
    assert bare("user", "show", "dora").status == 0
    assert [seen.authorization for seen in small.seen] == ["Basic ZG9yYTpjb3JyZWN0IGhvcnNlIGJhdHRlcnk="]
    assert bare("context", "new").err.startswith("FILE_EXISTS: ")
    shown = bare("context", "show", "-o", "json").json
    assert (shown["certificates_tls"], shown["username"], shown["key"]) == (small.tls, "dora", None)


def test_change_a_user(handclasp: Handclasp, small: Small) -> None:
    assert handclasp("user", "update", "bob", "--no-profiles").status == 0
    assert handclasp("user", "disable", "bob", "-o", "json").json["state"] == "STATE_DISABLED"
    assert handclasp("user", "enable", "users/bob", "-o", "json").json["state"] == "STATE_ACTIVE"
    update, disable, enable = small.seen
    assert list(update.request.update_mask.paths) == ["access_profiles"]
    assert {request.name for request in (disable.request, enable.request, update.request.user)} == {"users/bob"}
    assert handclasp("user", "update", "bob").status == 2


def test_set_password(handclasp: Handclasp, small: Small, password_file: Path, tmp_path: Path) -> None:
    new = tmp_path / "new"
    new.write_text("a new password\n")
    new.chmod(0o600)
    login = ("--as", "carol", "--password-file", password_file)
    assert handclasp(*login, "user", "set-password", "carol", "--password-file", new).status == 0
    assert handclasp(*login, "user", "set-password", "bob", "--password-file", new).status == 0
    own, other = (seen.request for seen in small.seen)
    assert (own.new_password, own.old_password) == ("a new password", "correct horse battery")
    assert other.old_password == ""
    ran = handclasp("user", "set-password", "bob")
    assert ran.status == 2
    said = " ".join(ran.err.replace("│", " ").split())
    assert "there is no terminal to ask at; give --password-file or --password-stdin" in said


def test_a_wrong_old_password_is_not_asked_for_without_a_terminal(
    handclasp: Handclasp, small: Small, password_file: Path
) -> None:
    small.refuse["SetPassword"] = [PermissionDenied(Reason.OLD_PASSWORD_WRONG, "the old password is needed")]
    ran = handclasp("user", "set-password", "alice", "--password-file", password_file)
    assert ran.status == 3
    assert ran.err.startswith("OLD_PASSWORD_WRONG: ")
    assert "give the old one with --old-password-file" in ran.err


def test_profiles(handclasp: Handclasp, small: Small) -> None:
    create = ("profile", "create", "clerk", "--grant", "execute-integrations=integrations/orders.*")
    assert handclasp(*create, "--grant", "USER_MANAGEMENT", "--description", "Clerks").status == 0
    [seen] = small.seen
    assert list(seen.request.access_profile.grants) == [
        Grant(permission=PERMISSION_EXECUTE_INTEGRATIONS, resource_pattern="integrations/orders.*"),
        Grant(permission=PERMISSION_USER_MANAGEMENT),
    ]
    assert "EXECUTE_INTEGRATIONS=integrations/orders.*" in handclasp("profile", "show", "clerk").out
    assert "administrator" in handclasp("profile", "list").out
    assert handclasp("profile", "update", "clerk", "--no-grants").status == 0
    assert handclasp("profile", "delete", "clerk", "-o", "json").json == {"deleted": "accessProfiles/clerk"}


@pytest.mark.parametrize("grant", ["NOSUCH", "UNSPECIFIED", "USER_MANAGEMENT=", ""])
def test_grants_that_are_none(handclasp: Handclasp, small: Small, grant: str) -> None:
    ran = handclasp("profile", "create", "clerk", "--grant", grant)
    assert (ran.status, len(ran.err.splitlines())) == (2, 1)
    assert not small.seen


def test_trust_anchors(handclasp: Handclasp, small: Small, tmp_path: Path) -> None:
    ca = OutsideCA()
    (tmp_path / "ca.pem").write_text(ca.pem)
    (tmp_path / "ca.der").write_bytes(ca.der)
    assert handclasp("trust", "add", tmp_path / "ca.pem", "--display-name", "Partner").status == 0
    assert handclasp("trust", "add", tmp_path / "ca.der", "-o", "json").json["id"] == "t1"
    assert handclasp("trust", "list", "-o", "json").json["trust_anchors"][0]["name"] == "trustAnchors/t1"
    assert handclasp("trust", "remove", "t1").status == 0
    as_pem, as_der, _, removed = (seen.request for seen in small.seen)
    assert (as_pem.pem, as_der.der, removed.name) == (ca.pem, ca.der, "trustAnchors/t1")


def test_trust_fetch_needs_no_context(bare: Handclasp, small: Small, tmp_path: Path) -> None:
    out = tmp_path / "ca.pem"
    fetch = ("trust", "fetch", small.tls, "--out", out, "--ca-fingerprint")
    ran = bare(*fetch, "0" * 64)
    assert ran.status == 3
    assert ran.err.startswith("CA_FINGERPRINT_MISMATCH: ")
    assert not out.exists()
    assert bare(*fetch, small.fingerprint).status == 0
    assert out.read_text() == small.root.pem
    assert bare(*fetch, small.fingerprint).err.startswith("FILE_EXISTS: ")


def test_run_passes_json_on_exactly(handclasp: Handclasp, small: Small, tmp_path: Path) -> None:
    exact = '{"a": 1.10, "b":123456789012345678901234567890}'
    (tmp_path / "input.json").write_text(exact)
    for given, stdin in ((exact, None), (f"@{tmp_path / 'input.json'}", None), ("-", exact)):
        ran = handclasp("run", "echo", "--input", given, stdin=stdin)
        assert (ran.status, ran.out) == (0, exact + "\n")
    assert handclasp("run", "integrations/echo").out == "{}\n"
    assert {seen.request.name for seen in small.seen} == {"integrations/echo"}


def test_run_of_an_answer_without_output(handclasp: Handclasp) -> None:
    ran = handclasp("run", "empty")
    assert (ran.out, ran.err.split(":")[0]) == ("", "ANSWER_NOT_USABLE")
    assert ran.status != 0


def test_run_without_context(bare: Handclasp, small: Small, context_file: Path, password_file: Path) -> None:
    folder = context_file.parent
    identity = ("--cert", folder / "cert.pem", "--key", folder / "key.pem")
    server = ("--address", small.mtls, "--ca", folder / "ca.pem")
    login = ("--user", "alice", "--password-file", password_file)
    assert bare("run", "echo", *identity, *server, *login).status == 0
    assert [seen.authorization for seen in small.seen] == ["Basic YWxpY2U6Y29ycmVjdCBob3JzZSBiYXR0ZXJ5"]
    assert bare("run", "echo", *server).err.startswith("CREDENTIALS_MISSING: ")
    assert bare("run", "echo", *server, "--cert", folder / "cert.pem").status == 2
    assert bare("run", "echo", *identity).err.startswith("CONTEXT_NOT_FOUND: ")


def test_run_tells_certificate_and_key_apart(handclasp: Handclasp, small: Small, context_file: Path) -> None:
    folder = context_file.parent
    certificate, key = folder / "cert.pem", folder / "key.pem"
    ran = handclasp("run", "echo", "--cert", certificate, "--key", certificate)
    assert f"{certificate} is a certificate, not a private key; are" in ran.err
    ran = handclasp("run", "echo", "--cert", key, "--key", certificate)
    assert f"{key} is a private key, not a certificate; are" in ran.err
    assert (ran.status, ran.err.split(":")[0]) == (5, "FILE_NOT_USABLE")
    assert not small.seen


def test_run_names_each_field_at_fault_on_one_line(handclasp: Handclasp, small: Small) -> None:
    violations = [FieldViolation("lines.3.price", "has to be a decimal"), FieldViolation("currency", "is missing")]
    small.refuse["ExecuteIntegration"] = [
        InvalidArgument(Reason.INPUT_INVALID, "the input does not fit", violations=violations)
    ]
    ran = handclasp("run", "orders.summarize")
    assert (ran.status, ran.out) == (5, "")
    assert ran.err == (
        "INPUT_INVALID: the input does not fit: lines.3.price: has to be a decimal; currency: is missing; "
        "`handclasp integration show orders.summarize` says what fits\n"
    )


@pytest.mark.parametrize("name", ["order.json", "./my orders/1", "/srv/a-b.json"])
def test_run_says_how_a_file_is_given(handclasp: Handclasp, small: Small, name: str) -> None:
    fault = InvalidArgument(
        Reason.INPUT_INVALID, "the input does not fit", violations=[FieldViolation("input", "is not JSON")]
    )
    small.refuse["ExecuteIntegration"] = [fault, fault]
    assert handclasp("run", "echo", "--input", name).err == (
        f"INPUT_INVALID: the input does not fit: input: is not JSON; if it is in a file, give --input @{name}\n"
    )
    assert "@" not in handclasp("run", "echo", "--input", '{"a": }').err


def test_run_gives_up_after_its_timeout(handclasp: Handclasp) -> None:
    ran = handclasp("run", "slow", "--timeout", "1s")
    assert ran.status == 1
    assert ran.err.startswith("DEADLINE_EXCEEDED: ")


def test_run_with_a_refused_certificate(handclasp: Handclasp, context_file: Path) -> None:
    folder = context_file.parent
    foreign = OutsideCA("foreign").issue("mallory")
    (folder / "foreign.pem").write_text(foreign.pem)
    (folder / "foreign.key").write_text(foreign.key_pem)
    (folder / "foreign.key").chmod(0o600)
    ran = handclasp("run", "echo", "--cert", folder / "foreign.pem", "--key", folder / "foreign.key")
    assert (ran.status, len(ran.err.splitlines())) == (3, 1)
    assert ran.err.startswith("HANDSHAKE_REFUSED: ")
    (folder / "foreign.key").chmod(0o644)
    ran = handclasp("run", "echo", "--cert", folder / "foreign.pem", "--key", folder / "foreign.key")
    assert (ran.status, ran.err.split(":")[0]) == (5, "FILE_OPEN_TO_OTHERS")


def test_integrations_and_decisions(handclasp: Handclasp, small: Small) -> None:
    assert handclasp("integration", "list", "-o", "json").json["integrations"][0]["id"] == "echo"
    assert "1.2.3" in handclasp("integration", "show", "echo").out
    explained = handclasp("explain", "d1", "-o", "json").json
    assert (explained["id"], explained["decision"]["reason"]) == ("d1", "DECISION_REASON_REVOKED")
    assert "the certificate was revoked" in handclasp("explain", "decisions/d1").out
    assert {seen.request.name for seen in small.asked("ExplainDecision")} == {"decisions/d1"}


def test_explain_says_of_whom_it_was_not_known_what_they_wanted(handclasp: Handclasp, small: Small) -> None:
    out = handclasp("explain", "d1").out
    assert "EXECUTE_INTEGRATIONS" in out
    assert "resource" in out
    small.explained = Decision(
        reason=DECISION_REASON_ENROLLMENT_TOKEN_USED, rule="it was used", resource="/certificates/Enroll"
    )
    out = handclasp("explain", "d1").out
    assert "ENROLLMENT_TOKEN_USED" in out
    assert "UNSPECIFIED" not in out
    assert "resource" not in out
    assert "/certificates/Enroll" in out


def test_explain_without_an_id_lists_what_was_refused_last(handclasp: Handclasp, small: Small) -> None:
    assert "nothing was refused" in handclasp("explain").out
    small.refusals = [
        Refusal(name="refusals/r1", kind=Refusal.KIND_HANDSHAKE, reason="EXPIRED", listener="executions", count=3),
        Refusal(
            name="decisions/d2",
            kind=Refusal.KIND_DECISION,
            reason="REVOKED",
            user="users/alice",
            resource="integrations/echo",
            peer_address="192.0.2.1",
            relying_party="users/execution-server",
            count=1,
        ),
    ]
    _, _, handshake, decision = handclasp("explain", "--since", "2h", "--limit", "5").out.splitlines()
    assert handshake.split()[:6] == ["3", "handshake", "EXPIRED", "unknown", "unknown", "executions"]
    assert "users/alice" in decision
    assert decision.split()[-1] == "d2"
    assert "integrations/echo (users/execution-server)" in decision
    asked = small.asked("ListRefusals")[-1].request
    assert asked.page_size == 5
    assert asked.since.seconds > 0

    found = handclasp("explain", "-o", "json").json["refusals"]
    assert [(item["id"], item["reason"], item["count"]) for item in found] == [
        ("r1", "EXPIRED", "3"),
        ("d2", "REVOKED", "1"),
    ]
    assert handclasp("explain", "d2", "--limit", "1").status == 2


def test_schemas_are_json_that_stays_the_same(handclasp: Handclasp, small: Small) -> None:
    small.input_schema = {
        "type": "object",
        "maxProperties": 3,
        "properties": {"b": {"minimum": 0.5}, "a": {"description": "long " * 40}},
    }
    out = handclasp("integration", "show", "echo").out
    _, _, below = out.partition("Input, as JSON Schema:\n")
    shown = below.partition("\n\nOutput, as JSON Schema:")[0]
    assert shown == json.dumps(small.input_schema, indent=2, sort_keys=True)
    found = handclasp("integration", "show", "echo", "-o", "json").json
    assert json.dumps(found["input_schema"]) == json.dumps(small.input_schema, sort_keys=True)


def test_signing_requests_stay_here(bare: Handclasp, tmp_path: Path) -> None:
    ran = bare("csr", "new", "--out", tmp_path / "new", "--common-name", "partner", "-o", "json")
    assert sorted(json.loads(ran.out)) == ["csr_file", "key_file"]
    assert (tmp_path / "new" / "key.pem").stat().st_mode & 0o777 == 0o600
    assert bare("csr", "new", "--out", tmp_path / "new").err.startswith("FILE_EXISTS: ")
    assert bare("csr", "new", "--out", tmp_path / "odd", "--common-name", "x" * 65).status == 5
    assert not (tmp_path / "odd").exists()
