"""Looks for secrets where they must not be: in logs, in what processes say, in the database."""

from __future__ import annotations

import base64
import json
import re
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

# Forms that no log may hold, whoever's secret it is.
FORBIDDEN_FORMS = (
    re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
    re.compile(rb"\bBasic [A-Za-z0-9+/]{8,}"),
    re.compile(rb"\$argon2id?\$"),
    re.compile(rb"\bhce_[A-Za-z0-9_-]{32}"),
)
_PRINTED_ON_PURPOSE = re.compile(rb"^Password: +\S+$", re.MULTILINE)


def encodings(secret: bytes) -> set[bytes]:
    """The forms in which a secret might be written down.

    In base64 it looks different at each of three offsets, and what stands at its ends depends on its neighbours, so
    only what does not is looked for.
    """
    found = {secret, secret.hex().encode(), secret.hex().upper().encode(), secret.hex(":").encode()}
    for offset in range(3):
        text = base64.b64encode(bytes(offset) + secret).rstrip(b"=")
        stable = text[(offset * 8 + 5) // 6 :][: len(secret) * 8 // 6 - 1]
        found |= {stable, stable.replace(b"+", b"-").replace(b"/", b"_")}
    try:
        text_form = secret.decode()
    except UnicodeDecodeError:
        return found
    return found | {
        urllib.parse.quote(text_form).encode(),
        json.dumps(text_form)[1:-1].encode(),
        repr(text_form)[1:-1].encode(),
    }


def private_numbers(key_pem: bytes) -> list[bytes]:
    """What is secret in a private key, as bytes; the rest of its PEM is the public key, which may stand anywhere."""
    key = load_pem_private_key(key_pem, None)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return [key.private_numbers().private_value.to_bytes((key.key_size + 7) // 8)]
    assert isinstance(key, rsa.RSAPrivateKey)
    numbers = key.private_numbers()
    return [number.to_bytes((number.bit_length() + 7) // 8) for number in (numbers.p, numbers.q, numbers.d)]


@dataclass
class Secrets:
    """The secrets of a run, and the folders where they must not show."""

    _forms: dict[bytes, str] = field(default_factory=dict, repr=False)
    _folders: set[Path] = field(default_factory=set)

    def add_password(self, password: str, user: str) -> None:
        """A password, and the Basic credentials that carry it."""
        self._add(password.encode(), f"the password of {user}")
        self._add(f"{user}:{password}".encode(), f"the Basic credentials of {user}")

    def add_key(self, key_pem: bytes, of: str) -> None:
        """A private key that is not encrypted."""
        for number in private_numbers(key_pem):
            self._add(number, f"the private key of {of}")

    def add_keys_below(self, folder: Path) -> None:
        """All private keys that are in a folder now."""
        for path in folder.glob("**/*key*.pem"):
            self.add_key(path.read_bytes(), str(path))

    def watch(self, folder: Path) -> None:
        """A folder whose logs, output and databases are to be looked at."""
        self._folders.add(folder)

    def leaks(self) -> list[str]:
        """Each secret that stands somewhere, and where. Never the secret itself."""
        return [leak for folder in sorted(self._folders) for path in _said(folder) for leak in self.leaks_in(path)]

    def _add(self, secret: bytes, what: str) -> None:
        for form in encodings(secret):
            self._forms[form] = what

    def leaks_in(self, path: Path) -> list[str]:
        """The same for one file."""
        return list(self._leaks_in(path))

    def _leaks_in(self, path: Path) -> Iterator[str]:
        content = path.read_bytes()
        if path.suffix == ".out":
            # `handclasp up` prints the first administrator's password, once.
            content = _PRINTED_ON_PURPOSE.sub(b"", content, count=1)
        yield from sorted({f"{what} is in {path}" for form, what in self._forms.items() if form in content})
        if ".db" not in path.name:
            yield from (f"{form.pattern!r} is in {path}" for form in FORBIDDEN_FORMS if form.search(content))


def _said(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.glob("**/*")):
        if path.is_file() and (path.suffix in {".out", ".err", ".toml"} or ".log" in path.name or ".db" in path.name):
            yield path
