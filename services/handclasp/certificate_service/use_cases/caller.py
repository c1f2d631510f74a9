"""Who calls, once that is established."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from handclasp.certificate_service.domain.decisions import UserFacts
from handclasp.certificate_service.domain.identifiers import user_name
from handclasp.certificate_service.domain.permissions import Grant, Permission, ProfileGrant

Clock = Callable[[], datetime]


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user name and a password as they were sent; nothing is known to be true of them yet."""

    username: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Caller:
    """A user whose identity is established.

    Attributes:
        facts: the user and their grants, as they were when the call was admitted.
        certificate_id: of the certificate they presented; empty if they logged in by password.
        fingerprint: of that certificate's DER; empty without one.
        address: IP address, without port.
        password_hash: of the password that they logged in by; None with a certificate.
    """

    facts: UserFacts
    certificate_id: str = ""
    fingerprint: str = ""
    address: str = ""
    password_hash: str | None = field(default=None, repr=False)

    @property
    def user_id(self) -> str:
        return self.facts.id

    @property
    def user(self) -> str:
        """For the log."""
        return user_name(self.facts.id)

    @property
    def is_relying_party(self) -> bool:
        """Whether they may ask for decisions about peers, of whatever resource."""
        return any(item.grant.permission is Permission.AUTHORIZE_PEERS for item in self.facts.grants)

    @property
    def grants(self) -> tuple[Grant, ...]:
        return tuple(item.grant for item in self.facts.grants)


def the_service_itself() -> Caller:
    """The caller for what happens at the first start and offline; its user id is empty, which no user's is."""
    grants = tuple(ProfileGrant("", Grant(permission)) for permission in Permission)
    return Caller(UserFacts(id="", active=True, grants=grants))
