"""Users, and the rules for their texts."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from handclasp.errors import Reason, invalid_field

MAXIMUM_DISPLAY_NAME = 200
MAXIMUM_PROFILES = 50
MAXIMUM_PASSWORD_LENGTH = 1024

# No character is composed of more than four.
_COMPOSED_OF = 4
# Combining characters in a row: the limit of the Stream-Safe Text Format (Unicode Standard Annex #15, section 13).
_MAXIMUM_COMBINING = 30


class UserState(StrEnum):
    ACTIVE = "ACTIVE"
    DISABLED = "DISABLED"


@dataclass(frozen=True, slots=True)
class User:
    """Somebody, or something, that certificates are mapped to."""

    id: str
    display_name: str
    state: UserState
    profile_ids: tuple[str, ...]
    has_password: bool
    create_time: datetime
    update_time: datetime
    disable_time: datetime | None = None


def check_text(value: str, field: str, *, maximum: int) -> str:
    """A text for people, in Unicode's composed form (NFC).

    Raises:
        InvalidArgument: it is too long, or holds control characters, lone surrogates or direction overrides, which
            make a text look like another one in a terminal or a log.
    """
    if len(value) > maximum * _COMPOSED_OF:
        raise invalid_field(field, f"must have at most {maximum} characters, not {len(value)}")
    if not _can_be_composed(value):
        raise invalid_field(field, f"must not have more than {_MAXIMUM_COMBINING} combining characters in a row")
    composed = unicodedata.normalize("NFC", value)
    if len(composed) > maximum:
        raise invalid_field(field, f"must have at most {maximum} characters, not {len(composed)}")
    if any(unicodedata.category(character) in {"Cc", "Cf", "Cs", "Zl", "Zp"} for character in composed):
        raise invalid_field(field, "must not hold control or formatting characters")
    return composed


def check_new_password(password: str, field: str, *, minimum: int) -> str:
    """A password to be set, composed (NFC) as RFC 8265, section 4.2, has it.

    Raises:
        InvalidArgument: PASSWORD_NOT_ACCEPTED, because of its length or a control character.
    """
    composed = normalize_password(password)
    if not minimum <= len(composed) <= MAXIMUM_PASSWORD_LENGTH:
        description = f"must have {minimum} to {MAXIMUM_PASSWORD_LENGTH} characters"
        raise invalid_field(field, description, Reason.PASSWORD_NOT_ACCEPTED)
    if any(unicodedata.category(character) in {"Cc", "Cs"} for character in composed):
        raise invalid_field(field, "must not hold control characters", Reason.PASSWORD_NOT_ACCEPTED)
    if not _can_be_composed(composed):
        description = f"must not have more than {_MAXIMUM_COMBINING} combining characters in a row"
        raise invalid_field(field, description, Reason.PASSWORD_NOT_ACCEPTED)
    return composed


def normalize_password(password: str) -> str:
    """The form in which passwords are hashed and compared. What can be nobody's password stays as it is."""
    if len(password) > MAXIMUM_PASSWORD_LENGTH * _COMPOSED_OF or not _can_be_composed(password):
        return password
    return unicodedata.normalize("NFC", password)


def _can_be_composed(text: str) -> bool:
    """Whether composing it takes no longer than reading it.

    Combining characters in a row are put in order, which takes the square of their number: minutes for some 100,000.
    """
    if text.isascii():
        return True
    in_a_row = 0
    for character in text:
        in_a_row = in_a_row + 1 if unicodedata.combining(character) else 0
        if in_a_row > _MAXIMUM_COMBINING:
            return False
    return True
