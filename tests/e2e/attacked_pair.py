"""A pair of services to attack, an attacker's identities, and the legitimate callers beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from tests.e2e.processes import Pair, environment, running_up
from tests.support.bystanders import Bystander
from tests.support.callers import Who, anew, echo, kept, read_own_user
from tests.support.raw_http2 import Target

Listener: TypeAlias = Literal["certificates_tls", "certificates_mtls", "executions"]
Identity: TypeAlias = Literal["low", "revoked"]

_PASSWORD = "bystander, and nothing else"


@dataclass(frozen=True)
class AttackedPair:
    """The pair, and three users who may run integrations.

    They are `bystander`, who has a password too, `low`, and `revoked`, whose certificate is revoked.
    """

    pair: Pair

    @property
    def ca_pem(self) -> bytes:
        return Path(self.pair.ready["ca_file"]).read_bytes()

    def identity(self, user: str) -> tuple[bytes, bytes]:
        """A user's certificate and key, as PEM."""
        folder = self.pair.folder / user
        return (folder / "cert.pem").read_bytes(), (folder / "key.pem").read_bytes()

    def target(self, listener: Listener, attacker: Identity | None = None, source: str | None = None) -> Target:
        """Where an attacker connects, and with which certificate, if any."""
        certificate, key = self.identity(attacker) if attacker else (None, None)
        port = int(self.pair.ready[listener].rpartition(":")[2])
        return Target(port, self.ca_pem, certificate, key, source)

    def who(self, *, by: Literal["password", "certificate"]) -> Who:
        """The bystander."""
        addresses = self.pair.ready
        if by == "password":
            return Who(
                "bystander", self.ca_pem, addresses["certificates_tls"], addresses["executions"], password=_PASSWORD
            )
        certificate, key = self.identity("bystander")
        return Who("bystander", self.ca_pem, addresses["certificates_mtls"], addresses["executions"], certificate, key)

    def bystanders(self) -> list[Bystander]:
        """One on each listener with a connection that is kept, and one with new connections."""
        password, certificate = self.who(by="password"), self.who(by="certificate")
        return [
            Bystander("8442 by password, kept connection", kept, (password, read_own_user), every=0.2),
            Bystander("8442 by password, new connections", anew, (password, read_own_user), every=0.2),
            Bystander("8444, kept connection", kept, (certificate, read_own_user)),
            Bystander("8444, new connections", anew, (certificate, read_own_user)),
            Bystander("8443, kept connection", kept, (certificate, echo)),
            Bystander("8443, new connections", anew, (certificate, echo)),
        ]


@contextmanager
def attacked_pair(folder: Path, settings: Mapping[str, str] | None = None) -> Iterator[AttackedPair]:
    """Both services in processes of their own, and the users.

    Args:
        settings: by variable, such as HANDCLASP_EXECUTIONS_LIMITS__MAX_CONNECTIONS.
    """
    with running_up(folder, variables=environment(**(settings or {}))) as pair:
        (folder / "password").write_text(f"{_PASSWORD}\n", encoding="utf-8")
        (folder / "password").chmod(0o600)
        pair.json("user", "create", "bystander", "--profile", "regular-user", "--password-file", folder / "password")
        for user in ("low", "revoked"):
            pair.json("user", "create", user, "--profile", "regular-user")
        for user in ("bystander", "low", "revoked"):
            pair.json("cert", "issue", "--user", user, "--out", folder / user)
        [revoked] = pair.json("cert", "list", "--user", "revoked")["certificates"]
        pair.json("cert", "revoke", revoked["name"].removeprefix("certificates/"))
        yield AttackedPair(pair)
