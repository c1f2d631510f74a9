"""Retries with the same request_id return what the first try made."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime

from handclasp.certificate_service.domain.certificates import Certificate
from handclasp.certificate_service.storage.certificates import find_certificate
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


async def once(
    transaction: Transaction,
    caller_id: str,
    request: RequestIdentity | None,
    now: datetime,
    make: Callable[[], Awaitable[Certificate]],
) -> Certificate:
    """What `make` puts on file; or, if the same request was answered before, the certificate that it got then.

    Raises:
        AlreadyExists: REQUEST_ID_REUSED, the id was used for another request.
    """
    if request is None:
        return await make()
    # The first try may be under way at another process, to which it went when its answer was late.
    await transaction.alone()
    key = RequestKey(caller_id, request.method, request.request_id)
    answered = await find_request(transaction, key)
    if answered is not None:
        if answered.request_hash != request.request_hash:
            raise AlreadyExists(
                Reason.REQUEST_ID_REUSED,
                f"request_id {request.request_id} was used for a request that said something else; use a new one",
            )
        earlier = await find_certificate(transaction, answered.certificate_id)
        if earlier is not None:
            return earlier
    made = await make()
    await add_request(transaction, key, AnsweredRequest(request.request_hash, made.id), now)
    return made
