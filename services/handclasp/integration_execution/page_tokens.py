"""Page tokens that callers can neither read nor make."""

from __future__ import annotations

import base64

from cryptography.fernet import Fernet, InvalidToken

from handclasp.errors import InvalidArgument, Reason, invalid_field

_MAX_LENGTH = 1000


class PageTokens:
    """Seals where a list is to go on. The key lives as long as the process, and so do its tokens.

    Args:
        secret: 32 bytes, the same for processes that are to open each other's tokens; made at random if empty.
    """

    def __init__(self, secret: bytes = b"") -> None:
        self._fernet = Fernet(base64.urlsafe_b64encode(secret) if secret else Fernet.generate_key())

    def seal(self, after: str, holder: str) -> str:
        """A token for the page after `after`, that only `holder` can use."""
        return self._fernet.encrypt(f"{holder}\n{after}".encode()).decode("ascii")

    def open(self, token: str, holder: str) -> str:
        """What the token was made for.

        Raises:
            InvalidArgument: PAGE_TOKEN_INVALID; it is not one of ours, or somebody else's.
        """
        if len(token) > _MAX_LENGTH:
            raise _invalid()
        try:
            opened = self._fernet.decrypt(token.encode("utf-8")).decode("utf-8")
        except InvalidToken:
            raise _invalid() from None
        sealed_for, _, after = opened.partition("\n")
        if sealed_for != holder:
            raise _invalid()
        return after


def _invalid() -> InvalidArgument:
    return invalid_field(
        "page_token", "is not valid here, or not any more; begin again without one", Reason.PAGE_TOKEN_INVALID
    )
