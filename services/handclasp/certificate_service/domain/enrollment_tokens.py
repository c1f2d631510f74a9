"""Enrollment tokens: with one, a machine that holds no certificate yet gets its first one, or becomes a replica."""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

DEFAULT_LIFETIME = timedelta(hours=1)

# Logs are searched for tokens, and cleared of them, by this beginning: see `handclasp.transport.logs`.
_PREFIX = "hce_"
_RANDOM_BYTES = 24
_TOKEN = re.compile(r"hce_[A-Za-z0-9_-]{32}", re.ASCII)


class Purpose(StrEnum):
    CERTIFICATE = "CERTIFICATE"
    REPLICA = "REPLICA"


@dataclass(frozen=True, slots=True)
class Use:
    """What a token was used for.

    Attributes:
        key_hash: of the public key that came with it, in hexadecimal: whoever holds the key may ask again.
        given_id: of the certificate that it gave, or of the CA.
    """

    time: datetime
    key_hash: str
    given_id: str


@dataclass(frozen=True, slots=True)
class EnrollmentToken:
    """What is known of a token; not the token itself, of which only a hash is kept.

    Attributes:
        token_hash: from `hash_token`.
        user_id: whose certificate it is for; for a replica, who made it.
        created_with: the id of the certificate that its maker called with; empty if by password.
        use: None if it was not used yet.
    """

    id: str
    token_hash: str
    purpose: Purpose
    user_id: str
    server_names: tuple[str, ...]
    create_time: datetime
    expire_time: datetime
    created_by: str
    created_with: str
    use: Use | None = None


def new_token() -> str:
    """A token nobody can guess: 192 random bits, in characters that need no quoting anywhere."""
    return _PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)


def hash_token(token: str) -> str | None:
    """The hash under which a token is kept, in hexadecimal; None for what has not the form of one.

    Tokens are found by it. How long that takes tells something of hashes at most, and of a hash nobody gets to a token.
    It is a quick one because, unlike passwords, tokens cannot be tried out one by one.
    """
    if _TOKEN.fullmatch(token) is None:
        return None
    return hashlib.sha256(token.encode("ascii")).hexdigest()
