"""Pages of lists, and the tokens that lead from one to the next.

A token is encrypted and authenticated (Fernet), and bound to the caller, the method and the filters, so that it can be
neither read, nor made up, nor used for another list.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from cryptography.fernet import Fernet, InvalidToken

from handclasp.certificate_service.use_cases.caller import Caller
from handclasp.errors import Reason, invalid_field

T = TypeVar("T")

DEFAULT_SIZE = 100
MAXIMUM_SIZE = 1000
_MAXIMUM_TOKEN = 2048


@dataclass(frozen=True, slots=True)
class PageRequest:
    """Which page is asked for.

    Attributes:
        list_hash: of method and filters, so that a token fits one list only.
    """

    size: int
    token: str
    list_hash: str


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    items: Sequence[T]
    next_token: str


def list_hash(method: str, *filters: object) -> str:
    """Names a list: the method, and the filters as text."""
    return hashlib.sha256(json.dumps([method, *map(str, filters)]).encode()).hexdigest()[:32]


class PageTokens:
    """Makes and reads page tokens.

    Args:
        key: a Fernet key, shared by all that serve the same lists.
    """

    def __init__(self, key: bytes) -> None:
        self._fernet = Fernet(key)

    def after(self, caller: Caller, request: PageRequest) -> str:
        """The id after which the page begins; empty for the first one.

        Raises:
            InvalidArgument: the size is negative, or the token is not for this list and caller (PAGE_TOKEN_INVALID).
        """
        if request.size < 0:
            raise invalid_field("page_size", f"must not be negative; 0 stands for {DEFAULT_SIZE}")
        if not request.token:
            return ""
        refusal = invalid_field(
            "page_token",
            "is not one for this list; pass `next_page_token` of the page before, with the same filters and as the"
            " same user, or begin again without one",
            Reason.PAGE_TOKEN_INVALID,
        )
        if len(request.token) > _MAXIMUM_TOKEN or not request.token.isascii():
            raise refusal
        try:
            caller_id, hashed, after = json.loads(self._fernet.decrypt(request.token.encode("ascii")))
        except InvalidToken:
            raise refusal from None
        if (caller_id, hashed) != (caller.user_id, request.list_hash):
            raise refusal
        return str(after)

    def page(self, caller: Caller, request: PageRequest, found: Sequence[T], identifier: Callable[[T], str]) -> Page[T]:
        """The page, from one item more than it may hold (see `limit`)."""
        size = limit(request) - 1
        items = found[:size]
        if len(found) <= size:
            return Page(items, "")
        content = json.dumps([caller.user_id, request.list_hash, identifier(items[-1])])
        return Page(items, self._fernet.encrypt(content.encode()).decode("ascii"))


def limit(request: PageRequest) -> int:
    """How many items to read: one more than the page holds, which tells whether there is another."""
    return min(request.size or DEFAULT_SIZE, MAXIMUM_SIZE) + 1
