"""Retries with the same request_id return what the first try made."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

from handclasp.certificate_service.storage.database import Transaction
from handclasp.certificate_service.storage.requests import AnsweredRequest, RequestKey, add_request, find_request
from handclasp.errors import AlreadyExists, Reason, invalid_field

_REQUEST_ID = re.compile(r"[!-~]{1,128}", re.ASCII)


@dataclass(frozen=True, slots=True)
class RequestIdentity:
    """A request that can be told from others.

    Attributes:
        request_id: as the caller chose it.
        request_hash: of everything else in the request that matters, in hexadecimal.
    """

    method: str
    request_id: str
    request_hash: str


def check_request_id(request_id: str) -> str:
    """Raises InvalidArgument if it is not 1 to 128 printable ASCII characters."""
    if _REQUEST_ID.fullmatch(request_id) is None:
        raise invalid_field("request_id", "must be 1 to 128 printable ASCII characters without spaces, such as a UUID")
    return request_id


async def earlier_answer(transaction: Transaction, caller_id: str, request: RequestIdentity | None) -> str | None:
    """The id of the certificate that the same request got before.

    Raises:
        AlreadyExists: REQUEST_ID_REUSED, the id was used for another request.
    """
    if request is None:
        return None
    found = await find_request(transaction, RequestKey(caller_id, request.method, request.request_id))
    if found is None:
        return None
    if found.request_hash != request.request_hash:
        raise AlreadyExists(
            Reason.REQUEST_ID_REUSED,
            f"request_id {request.request_id} was used for a request that said something else; use a new one",
        )
    return found.certificate_id


async def remember_answer(
    transaction: Transaction, caller_id: str, request: RequestIdentity | None, certificate_id: str, now: datetime
) -> None:
    if request is not None:
        key = RequestKey(caller_id, request.method, request.request_id)
        await add_request(transaction, key, AnsweredRequest(request.request_hash, certificate_id), now)
