"""SPIFFE ids: how the certificates of this trust domain name their users."""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import unquote

# A URI that is still percent-encoded after so many rounds is not one that anybody would decode.
_MAX_DECODINGS = 5
# SPIFFE ids have at most 2,048 bytes (SPIFFE-ID, section 2.3), and putting combining characters in order, as NFKC does,
# takes the square of their number.
_MAX_LENGTH = 2048


def user_spiffe_id(trust_domain: str, user_id: str) -> str:
    """The SPIFFE id of a user: `spiffe://{trust domain}/user/{user}`."""
    return f"spiffe://{trust_domain}/user/{user_id}"


def claims_trust_domain(uri: str, trust_domain: str) -> bool:
    """Whether anybody might read the URI as a SPIFFE id of the trust domain.

    Generous on purpose, since it is for refusing: scheme and host in any case, percent-encoded (again and again),
    compatibility characters, white space, a user, a port, dots after the host, slashes missing, turned or doubled.
    """
    scheme, separator, rest = _plain(uri).partition(":")
    if not separator or scheme != "spiffe":
        return False
    authority = re.split(r"[/\\?#]", rest.lstrip("/\\"), maxsplit=1)[0]
    wanted = _plain(trust_domain).strip(".")
    return any(part.strip(".") == wanted for part in re.split("[@:]", authority))


def _plain(text: str) -> str:
    for _ in range(_MAX_DECODINGS):
        decoded = unquote(text)
        if decoded == text:
            break
        text = decoded
    folded = unicodedata.normalize("NFKC", _visible(text)[:_MAX_LENGTH]).casefold()
    return _visible(folded)


def _visible(text: str) -> str:
    return "".join(character for character in text if character.isprintable() and not character.isspace())
