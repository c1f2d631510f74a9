"""The search for secrets finds them, and what the services are sent shows up nowhere.

The search itself is made at the end of the run, by the fixture `secrets`, in all that the end-to-end tests left.
"""

from __future__ import annotations

import base64
import json
import shutil
import sqlite3
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from tests.e2e.processes import Pair
from tests.support.leaks import Secrets

PASSWORD = 'pässword "of" {mallory}/2026'

WAYS_TO_WRITE: dict[str, Callable[[str], str]] = {
    "plain": lambda secret: secret,
    "in JSON": json.dumps,
    "as repr": repr,
    "in hexadecimal": lambda secret: secret.encode().hex(),
    "in a URL": urllib.parse.quote,
    "in Basic": lambda secret: base64.b64encode(f"mallory:{secret}".encode()).decode(),
    "in base64": lambda secret: base64.b64encode(secret.encode()).decode(),
    "amid base64": lambda secret: base64.b64encode(f"ab{secret}cd".encode()).decode(),
    "in URL-safe base64": lambda secret: base64.urlsafe_b64encode(f"a{secret}".encode()).decode(),
}


@pytest.fixture
def planted(tmp_path: Path) -> Iterator[Path]:
    """A folder for secrets that are written down on purpose; gone before the search at the end of the run."""
    yield tmp_path
    shutil.rmtree(tmp_path)


@pytest.mark.parametrize("how", WAYS_TO_WRITE)
def test_a_password_that_was_written_down_is_found(planted: Path, how: str) -> None:
    found = Secrets()
    found.add_password(PASSWORD, "mallory")
    found.watch(planted)
    for name in ("x.log", "x.log.1", "x.err", "x.out", "x.db-wal"):
        (planted / name).write_text("event=started user=mallory\n")
        assert found.leaks() == []
        (planted / name).write_text(f"event=started what={WAYS_TO_WRITE[how](PASSWORD)} user=mallory\n")
        assert found.leaks()
        assert PASSWORD not in str(found.leaks()) + repr(found)
        (planted / name).unlink()


@pytest.mark.parametrize("key", [ec.generate_private_key(ec.SECP256R1()), rsa.generate_private_key(65537, 2048)])
def test_a_private_key_that_was_written_down_is_found(
    planted: Path, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
) -> None:
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    der = key.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    found = Secrets()
    found.add_key(pem, "mallory")
    found.watch(planted)
    log, database = planted / "x.log", planted / "x.db"
    log.write_bytes(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    assert found.leaks() == []
    for path, content in ((log, base64.b64encode(der)), (log, der.hex().encode()), (database, der)):
        path.write_bytes(content)
        assert found.leaks()
        path.unlink()


@pytest.mark.parametrize(
    "line",
    [
        "-----BEGIN EC PRIVATE KEY-----",
        "authorization=Basic YWxpY2U6cGFzc3dvcmQ=",
        "hash=$argon2id$v=19$m=19456",
        "token=hce_0123456789abcdefghijklmnopqrstuv",
    ],
)
def test_what_looks_like_a_secret_is_found_whosever_it_is(planted: Path, line: str) -> None:
    found = Secrets()
    found.watch(planted)
    (planted / "x.log").write_text(line)
    assert len(found.leaks()) == 1


def test_the_services_keep_no_secret_that_they_are_sent(pair: Pair, folder: Path, secrets: Secrets) -> None:
    secrets.add_password(PASSWORD, "mallory")
    password_file = folder / "password"
    password_file.touch(0o600)
    password_file.write_text(PASSWORD)
    wrong = folder / "wrong"
    wrong.touch(0o600)
    wrong.write_text(f"{PASSWORD}!")
    pair.json("user", "create", "mallory", "--profile", "regular-user", "--password-file", password_file)
    pair.json("cert", "issue", "--user", "mallory", "--server-key", "--out", folder / "made")
    identity = ("--cert", folder / "made/cert.pem", "--key", folder / "made/key.pem")
    for given, status in ((password_file, 0), (wrong, 3)):
        login = ("--user", "mallory", "--password-file", given)
        assert pair.run("run", "echo", *identity, *login).status == status
        assert pair.run("--as", "mallory", "--password-file", given, "user", "show", "mallory").status == status
    secrets.add_key((folder / "made/key.pem").read_bytes(), "mallory")
    # All of it now and not only at the end, so that what leaks is plain to see.
    assert secrets.leaks() == []

    connection = sqlite3.connect(f"file:{urllib.parse.quote(str(pair.data_dir))}/handclasp.db?mode=ro", uri=True)
    try:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        content = repr([connection.execute(f'SELECT * FROM "{table}"').fetchall() for table in tables])  # noqa: S608
    finally:
        connection.close()
    assert "$argon2id$" in content
    key = load_pem_private_key((folder / "made/key.pem").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert str(key.private_numbers().private_value) not in content
    assert "PRIVATE KEY" not in content
