"""Ids and resource names (https://google.aip.dev/122)."""

from __future__ import annotations

import base64
import re
import secrets
from datetime import datetime

from handclasp.errors import InvalidArgument, NotFound, Reason, invalid_field

_CHOSEN_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}", re.ASCII)
_MADE_ID = re.compile(r"[0-9a-v]{26}", re.ASCII)
CHOSEN_ID_RULE = "1 to 63 of a-z, 0-9, '.', '_' and '-', beginning with a letter or a digit"


def new_id(now: datetime) -> str:
    """A fresh id of 26 characters: 48 bits of time in milliseconds, then 82 random ones.

    Ids made later sort later, which keeps pages in order of creation and index inserts local.
    """
    milliseconds = int(now.timestamp() * 1000)
    # 130 bits are 26 digits of base32hex, whose order is that of the numbers; six more fill up the last byte.
    number = (milliseconds << 82) | secrets.randbits(82)
    return base64.b32hexencode((number << 6).to_bytes(17, "big")).decode().lower()[:26]


def check_chosen_id(value: str, field: str) -> str:
    """An id that a caller picks: of a user or an access profile.

    Raises:
        InvalidArgument: it does not match.
    """
    if _CHOSEN_ID.fullmatch(value) is None:
        raise invalid_field(field, f"must be {CHOSEN_ID_RULE}")
    return value


def user_name(user_id: str) -> str:
    """`users/{user}`; empty for the empty id, which stands for the service itself."""
    return f"users/{user_id}" if user_id else ""


def access_profile_name(profile_id: str) -> str:
    return f"accessProfiles/{profile_id}"


def certificate_name(certificate_id: str) -> str:
    return f"certificates/{certificate_id}" if certificate_id else ""


def trust_anchor_name(anchor_id: str) -> str:
    return f"trustAnchors/{anchor_id}"


SERVER_NAMES = "serverNames/"
"""What grants on server names begin with."""


def server_name_resource(server_name: str) -> str:
    """A server name, in its one form, as what grants reach."""
    return SERVER_NAMES + server_name


def authority_name(authority_id: str) -> str:
    """Of a CA of this service's own; clients meet it in the history of changes only."""
    return f"authorities/{authority_id}"


def enrollment_token_name(token_id: str) -> str:
    return f"enrollmentTokens/{token_id}"


def refusal_name(refusal_id: str) -> str:
    """Of a refusal that is no decision; it is only listed."""
    return f"refusals/{refusal_id}"


def decision_name(decision_id: str) -> str:
    return f"decisions/{decision_id}"


def parse_user_name(name: str, field: str = "name") -> str:
    """The id in `users/{user}`.

    Raises:
        InvalidArgument: it is not such a name.
    """
    return _chosen(name, "users", field)


def parse_access_profile_name(name: str, field: str = "name") -> str:
    """The id in `accessProfiles/{profile}`; raises as `parse_user_name` does."""
    return _chosen(name, "accessProfiles", field)


def parse_certificate_name(name: str, field: str = "name") -> str:
    """The id in `certificates/{certificate}`.

    Raises:
        InvalidArgument: it does not begin like one.
        NotFound: its id is none that the service makes, so there is no such certificate.
    """
    return _made(name, "certificates", field, Reason.CERTIFICATE_NOT_FOUND)


def parse_trust_anchor_name(name: str, field: str = "name") -> str:
    """The id in `trustAnchors/{anchor}`; raises as `parse_certificate_name` does."""
    return _made(name, "trustAnchors", field, Reason.TRUST_ANCHOR_NOT_FOUND)


def parse_enrollment_token_name(name: str, field: str = "name") -> str:
    """The id in `enrollmentTokens/{enrollment_token}`; raises as `parse_certificate_name` does."""
    return _made(name, "enrollmentTokens", field, Reason.ENROLLMENT_TOKEN_NOT_FOUND)


def parse_decision_name(name: str, field: str = "name") -> str:
    """The id in `decisions/{decision}`; raises as `parse_certificate_name` does."""
    return _made(name, "decisions", field, Reason.DECISION_NOT_FOUND)


def not_found(reason: Reason, name: str) -> NotFound:
    """The one refusal for what does not exist and for what the caller may not see."""
    return NotFound(reason, f"there is no {name}, or you may not see it; check the name, or who you are")


def _chosen(name: str, collection: str, field: str) -> str:
    found, _, identifier = name.partition("/")
    if found != collection or _CHOSEN_ID.fullmatch(identifier) is None:
        raise _malformed(collection, field, CHOSEN_ID_RULE)
    return identifier


def _made(name: str, collection: str, field: str, reason: Reason) -> str:
    found, _, identifier = name.partition("/")
    if found != collection or not identifier or len(name) > 256:
        raise _malformed(collection, field, "as the service gave it")
    if _MADE_ID.fullmatch(identifier) is None:
        # What was typed is repeated only if it looks like an id at all.
        raise not_found(reason, name if _CHOSEN_ID.fullmatch(identifier) else f"{collection}/ of such an id")
    return identifier


def _malformed(collection: str, field: str, rule: str) -> InvalidArgument:
    return invalid_field(field, f"must be {collection}/ID, the id {rule}")
