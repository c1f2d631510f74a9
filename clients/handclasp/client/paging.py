"""Walks over all pages of a List method."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

from handclasp.errors import Aborted, Reason


class _PagedRequest(Protocol):
    page_size: int
    page_token: str


class _Page(Protocol):
    @property
    def next_page_token(self) -> str: ...


Request = TypeVar("Request", bound=_PagedRequest)
Page = TypeVar("Page", bound=_Page)
Item = TypeVar("Item")

_LARGEST_PAGE = 1_000
_MOST_EMPTY_PAGES = 1_000
"""In a row. A page may be empty with more to come, as what is filtered out is only found by reading it."""


async def items(
    method: Callable[[Request], Awaitable[Page]],
    request: Request,
    items_of: Callable[[Page], Sequence[Item]],
    limit: int | None = None,
) -> AsyncIterator[Item]:
    """The items of a List method, one page after the other, and no page more than is asked for.

    Args:
        method: the stub's method, such as `client.certificates.ListCertificates`.
        request: the filters. Its page fields are set here.
        items_of: takes the items out of a page: `lambda page: page.certificates`.
        limit: how many at most; None for all.
    Raises:
        Aborted: ANSWER_NOT_USABLE; the server's pages have no end.
    """
    left = limit
    empty = 0
    request.page_token = ""
    while left is None or left > 0:
        if left is not None:
            request.page_size = min(left, _LARGEST_PAGE)
        page = await method(request)
        found = items_of(page)
        for item in found[:left]:
            yield item
            left = None if left is None else left - 1
        empty = 0 if found else empty + 1
        if not page.next_page_token:
            return
        if page.next_page_token == request.page_token or empty > _MOST_EMPTY_PAGES:
            raise Aborted(
                Reason.ANSWER_NOT_USABLE,
                "the server's pages have no end: it named the same page again, or empty ones only; see that the "
                "address is that of a Handclasp server, and whether it is of another version",
            )
        request.page_token = page.next_page_token
