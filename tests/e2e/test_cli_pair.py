"""The `handclasp` command against a pair that runs: each group of commands once for real."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509

from tests.e2e.processes import Finished, Pair, run_command, wait_until
from tests.support.leaks import Secrets
from tests.support.outside_ca import OutsideCA

PASSWORD = "correct horse battery staple, 2026"
NEW_PASSWORD = "Zwölf Boxkämpfer jagen Viktor"


@dataclass(frozen=True)
class Person:
    """A user with a certificate, and a context file of their own."""

    pair: Pair
    name: str
    folder: Path
    certificate_id: str

    @property
    def context_file(self) -> Path:
        return self.folder / "context.toml"

    def run(self, *arguments: str | Path) -> Finished:
        return run_command(*arguments, folder=self.folder, context=self.context_file)


@pytest.fixture(scope="module")
def alice(pair: Pair, secrets: Secrets, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Person]:
    folder = tmp_path_factory.mktemp("alice")
    password_file = secret_file(folder / "password", PASSWORD)
    secrets.add_password(PASSWORD, "alice")
    pair.json("user", "create", "alice", "--profile", "regular-user", "--password-file", password_file)
    issued = pair.json("cert", "issue", "--user", "alice", "--out", folder)
    where = [
        argument
        for name in ("certificates_tls", "certificates_mtls", "executions")
        for argument in (f"--{name.replace('_', '-')}", pair.ready[name])
    ]
    files = ("--ca", pair.ready["ca_file"], "--cert", folder / "cert.pem", "--key", folder / "key.pem")
    run_command("context", "new", *where, *files, "--out", folder / "context.toml", "-o", "json", folder=folder).json()
    yield Person(pair, "alice", folder, issued["id"])
    secrets.add_keys_below(folder)


def secret_file(path: Path, content: str) -> Path:
    path.touch(0o600)
    path.write_text(f"{content}\n", encoding="utf-8")
    return path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_users(pair: Pair, folder: Path, secrets: Secrets) -> None:
    secrets.add_password(PASSWORD, "ulla")
    secrets.add_password(NEW_PASSWORD, "ulla")
    old, new = secret_file(folder / "old", PASSWORD), secret_file(folder / "new", NEW_PASSWORD)
    pair.json("user", "create", "ulla", "--profile", "regular-user", "--password-file", old)
    assert pair.run("user", "create", "ulla").reason(1) == "USER_EXISTS"
    assert pair.run("user", "create", "Ulla Unfit").reason(5) == "FIELD_INVALID"
    assert pair.run("user", "show", "nobody").reason(4) == "USER_NOT_FOUND"
    assert pair.json("user", "update", "ulla", "--display-name", "Ulla")["display_name"] == "Ulla"
    listed = pair.json("user", "list")["users"]
    assert {"admin", "execution-server", "ulla"} <= {user["id"] for user in listed}

    # Her own password needs the old one: it is the one that she logs in with.
    login = ("--as", "ulla", "--password-file")
    pair.run(*login, old, "user", "set-password", "ulla", "--password-file", new, "-o", "json").json()
    assert pair.run(*login, new, "user", "show", "ulla", "-o", "json").json()["has_password"] is True
    assert pair.run(*login, old, "user", "show", "ulla").reason(3) == "CREDENTIALS_INVALID"

    assert pair.json("user", "disable", "ulla")["state"] == "STATE_DISABLED"
    assert pair.run("cert", "issue", "--user", "ulla", "--out", folder / "ulla").reason(1) == "USER_IS_DISABLED"
    assert not list(folder.glob("ulla/*"))
    assert pair.json("user", "enable", "ulla")["state"] == "STATE_ACTIVE"


def test_profiles(pair: Pair) -> None:
    pair.json("profile", "create", "clerk", "--grant", "EXECUTE_INTEGRATIONS=integrations/orders.*")
    grants = pair.json("profile", "update", "clerk", "--grant", "view-executions")["grants"]
    assert [grant["permission"] for grant in grants] == ["PERMISSION_VIEW_EXECUTIONS"]
    assert pair.json("profile", "show", "clerk")["built_in"] is False
    assert pair.json("profile", "delete", "clerk") == {"deleted": "accessProfiles/clerk"}
    assert "clerk" not in {profile["id"] for profile in pair.json("profile", "list")["access_profiles"]}
    assert pair.run("profile", "create", "clerk", "--grant", "EVERYTHING").status == 2


def test_issuing(pair: Pair, alice: Person, folder: Path) -> None:
    assert {mode(alice.folder / "key.pem"), mode(alice.context_file)} == {0o600}
    # Files with keys are never written over, whatever is asked.
    before = (alice.folder / "key.pem").read_bytes(), (alice.folder / "cert.pem").read_bytes()
    for how in ((), ("--server-key",)):
        assert pair.run("cert", "issue", "--user", "alice", "--out", alice.folder, *how).reason(1) == "FILE_EXISTS"
    assert run_command("csr", "new", "--out", alice.folder, folder=folder).reason(1) == "FILE_EXISTS"
    assert ((alice.folder / "key.pem").read_bytes(), (alice.folder / "cert.pem").read_bytes()) == before

    made = pair.json("cert", "issue", "--user", "alice", "--server-key", "--key-type", "p384", "--out", folder / "made")
    assert (made["origin"], mode(folder / "made/key.pem")) == ("ORIGIN_GENERATED", 0o600)
    ran = pair.run("run", "echo", "--cert", folder / "made/cert.pem", "--key", folder / "made/key.pem")
    assert ran.json() == {}

    csr = run_command("csr", "new", "--out", folder / "csr", "-o", "json", folder=folder).json()
    arguments = ("--csr", csr["csr_file"], "--lifetime", "1h", "--label", "team=orders", "--out", folder / "csr")
    signed = pair.json("cert", "issue", "--user", "alice", *arguments)
    assert (signed["origin"], signed["labels"]) == ("ORIGIN_SIGNED", {"team": "orders"})
    leaf = x509.load_pem_x509_certificates((folder / "csr/cert.pem").read_bytes())[0]
    assert leaf.serial_number == int(signed["serial"], 16)


def test_certificates_on_file(pair: Pair, alice: Person, folder: Path) -> None:
    one = pair.json("cert", "issue", "--user", "alice", "--out", folder / "one")
    certificate_id = one["id"]
    found = pair.json("cert", "list", "--user", "alice", "--fingerprint", one["fingerprint"])["certificates"]
    assert [certificate["id"] for certificate in found] == [certificate_id]
    updated = pair.json("cert", "update", certificate_id, "--description", "for the night shift")
    assert updated["description"] == "for the night shift"
    shown = alice.run("cert", "show", certificate_id)
    assert (shown.status, "for the night shift" in shown.out) == (0, True)
    assert pair.run("cert", "download", certificate_id).out == (folder / "one/cert.pem").read_text()
    # Revoked by its owner, who may; with effect at once.
    with_it = ("run", "echo", "--cert", folder / "one/cert.pem", "--key", folder / "one/key.pem")
    assert pair.run(*with_it).status == 0
    held = pair.run("cert", "hold", certificate_id)
    assert held.out.splitlines()[-1].startswith("In force: "), held
    assert pair.run(*with_it).reason(3) == "CERTIFICATE_NOT_ACCEPTED"
    assert pair.json("cert", "list", "--state", "on-hold")["certificates"][0]["id"] == certificate_id
    assert pair.json("cert", "reinstate", certificate_id)["in_force"]["revision"] > 0
    assert pair.run(*with_it).status == 0
    # By the holder, who names nothing but the files.
    renewed = pair.json("cert", "renew", *with_it[2:], "--out", folder / "renewed")
    assert renewed["renewed_from"] == f"certificates/{certificate_id}"
    successor = ("run", "echo", "--cert", folder / "renewed/cert.pem", "--key", folder / "renewed/key.pem")
    assert pair.run(*successor).status == 0
    alice.run("cert", "revoke", certificate_id, "--reason", "superseded", "-o", "json").json()
    refused = pair.run(*with_it)
    assert refused.reason(3) == "CERTIFICATE_NOT_ACCEPTED"
    assert "handclasp explain" in refused.errors
    states = {item["id"]: item["state"] for item in pair.json("cert", "list", "--user", "alice")["certificates"]}
    assert (states[certificate_id], states[alice.certificate_id]) == ("STATE_REVOKED", "STATE_ACTIVE")
    assert pair.run("cert", "revoke").status == 2
    assert pair.run("cert", "show", "06h0000000000000000000000").reason(4) == "CERTIFICATE_NOT_FOUND"


def test_trust_and_upload(pair: Pair, alice: Person, folder: Path) -> None:
    ca = OutsideCA("Partner CA")
    leaf = ca.issue("partner")
    (folder / "ca.pem").write_text(ca.pem)
    (folder / "leaf.der").write_bytes(leaf.der)
    (folder / "leaf.pem").write_text(leaf.pem)
    key_file = secret_file(folder / "leaf-key.pem", leaf.key_pem)
    upload = ("cert", "upload", "--user", "alice", folder / "leaf.der")
    assert pair.run(*upload).reason(5) == "CHAIN_NOT_TRUSTED"
    anchor = pair.json("trust", "add", folder / "ca.pem", "--display-name", "Partner")
    assert anchor["id"] in {item["id"] for item in pair.json("trust", "list")["trust_anchors"]}

    # Whoever uploads for themselves proves to hold the key.
    assert alice.run(*upload).reason(5) == "POSSESSION_PROOF_REQUIRED"
    assert alice.run(*upload, "--key", key_file, "-o", "json").json()["origin"] == "ORIGIN_UPLOADED"
    with_it = ("run", "echo", "--cert", folder / "leaf.pem", "--key", key_file)
    wait_until(lambda: pair.run(*with_it).status == 0, "the execution server trusts the new anchor")

    assert pair.json("trust", "remove", anchor["id"])["removed"] == anchor["name"]
    refused = pair.run(*with_it)
    assert refused.reason(3) in {"CERTIFICATE_NOT_ACCEPTED", "HANDSHAKE_REFUSED"}


def test_a_second_machine_trusts_the_ca_by_its_fingerprint(pair: Pair, folder: Path) -> None:
    fetch = ("trust", "fetch", pair.ready["certificates_tls"], "--out", folder / "ca.pem", "--ca-fingerprint")
    wrong = run_command(*fetch, "00" * 32, folder=folder)
    assert wrong.reason(3) == "CA_FINGERPRINT_MISMATCH"
    assert not (folder / "ca.pem").exists()
    assert run_command(*fetch, pair.ready["ca_fingerprint"].upper(), folder=folder).status == 0
    assert (folder / "ca.pem").read_bytes() == Path(pair.ready["ca_file"]).read_bytes()


def test_integrations(pair: Pair, alice: Person) -> None:
    listed = json.loads(alice.run("integration", "list", "-o", "json").out)["integrations"]
    assert [item["id"] for item in listed] == ["echo", "orders.summarize"]
    shown = alice.run("integration", "show", "orders.summarize", "-o", "json").json()
    assert "orders" in shown["input_schema"]["properties"]
    exact = '{"amount": 0.10, "name": "Grünwald"}'
    echoed = run_command("run", "echo", "--input", "-", folder=alice.folder, context=alice.context_file, given=exact)
    assert '"amount":0.10' in echoed.out.replace(" ", "")
    wrong = alice.run("run", "orders.summarize", "--input", '{"orders": [{"customer": "a"}]}')
    assert wrong.reason(5) == "INPUT_INVALID"
    assert "lines" in wrong.errors
    assert alice.run("run", "no.such").reason(4) == "INTEGRATION_NOT_FOUND"


def test_refusals_and_why(pair: Pair, alice: Person, folder: Path) -> None:
    assert alice.run("user", "create", "mallory").reason(3) == "ACCESS_DENIED"
    assert alice.run("explain", "06h0000000000000000000000").status in {3, 4}
    pair.json("user", "create", "carol")
    pair.json("cert", "issue", "--user", "carol", "--out", folder)
    refused = pair.run("run", "echo", "--cert", folder / "cert.pem", "--key", folder / "key.pem")
    assert refused.reason(3) == "ACCESS_DENIED"
    decision = refused.errors.partition("handclasp explain ")[2].split("`")[0]
    explained = pair.json("explain", decision)
    assert explained["decision"]["reason"] == "DECISION_REASON_PERMISSION_MISSING"
    assert explained["decision"]["user"] == "users/carol"
    shown = pair.run("explain", decision)
    assert "no access profile of users/carol grants EXECUTE_INTEGRATIONS" in " ".join(shown.out.split())


def test_a_password_beside_the_certificate(pair: Pair, alice: Person, folder: Path) -> None:
    password_file = secret_file(folder / "password", PASSWORD)
    assert alice.run("run", "echo", "--user", "alice", "--password-file", password_file).status == 0
    wrong = secret_file(folder / "wrong", "not her password, not at all")
    assert alice.run("run", "echo", "--user", "alice", "--password-file", wrong).reason(3) == "CREDENTIALS_INVALID"
    password_file.chmod(0o640)
    open_to_others = alice.run("run", "echo", "--user", "alice", "--password-file", password_file)
    assert open_to_others.reason(5) == "FILE_OPEN_TO_OTHERS"


def test_a_server_that_is_not_there(alice: Person) -> None:
    gone = alice.run("run", "echo", "--address", "localhost:9")
    assert gone.reason(1) == "SERVER_UNREACHABLE"
    assert "check that the server runs" in gone.errors
    nowhere = run_command("user", "list", folder=alice.folder, context=alice.folder / "none.toml")
    assert nowhere.reason(1) == "CONTEXT_NOT_FOUND"


def test_recovery_is_for_a_service_that_is_stopped(pair: Pair) -> None:
    refused = run_command("admin", "recover", "--data-dir", pair.data_dir, folder=pair.folder)
    assert refused.reason(1) == "RECOVERY_NOT_POSSIBLE"
    assert "in use by another process" in refused.errors
