"""Which calls do the same when they are repeated, so that one whose answer was lost may go to another server."""

from __future__ import annotations

import copy
import uuid
from collections.abc import Iterator
from typing import Any, TypeVar

from google.protobuf.empty_pb2 import Empty

from handclasp.accounts.v1 import account_service_pb2
from handclasp.authorization.v1 import authorization_service_pb2
from handclasp.certificates.v1 import certificate_service_pb2
from handclasp.errors import HandclaspError, Reason
from handclasp.integrations.v1 import integration_service_pb2

_SERVICES = (account_service_pb2, authorization_service_pb2, certificate_service_pb2, integration_service_pb2)
_ID = "request_id"
_READING = ("Get", "List", "Check", "BatchCheck", "Explain")
_TAKING_AWAY = frozenset(
    {"RevokeCertificate", "RevokeUserCertificates", "HoldCertificate", "DisableUser", "RemoveTrustAnchor"}
)
"""What only takes away, and from what is named once and for all. An attempt that is carried out late can then undo
nothing that was given meanwhile, but a hold's end; `UpdateUser`, for example, could give again what was taken since."""

Request = TypeVar("Request")


def may_be_repeated(method: str, request: Any) -> bool:
    """Whether a call does the same when it is made again: it only reads or takes away, or has a `request_id`.

    Args:
        method: `/package.Service/Method`.
    """
    return may_be_doubled(method) or bool(getattr(request, _ID, ""))


def may_be_doubled(method: str) -> bool:
    """Whether a call may be made a second time while the first is still on its way: it only reads or takes away.

    One with a `request_id` may not: a key that comes with the first answer does not come with the second.
    """
    return is_read(method) or is_taking_away(method)


def is_taking_away(method: str) -> bool:
    """Whether all that a call does is to take something away."""
    return method.rpartition("/")[2] in _TAKING_AWAY


def already_gone(method: str, error: HandclaspError) -> Empty | None:
    """The answer of a call that removes something which is gone, if it may have been removed by an earlier attempt. The
    service has waited until that is in force before it said so."""
    removed = method.rpartition("/")[2] == "RemoveTrustAnchor" and error.reason == Reason.TRUST_ANCHOR_NOT_FOUND
    return Empty() if removed else None


def is_read(method: str) -> bool:
    """Whether a call only reads."""
    return method.rpartition("/")[2].startswith(_READING)


def identified(request: Request) -> Request:
    """The same request, with a `request_id` of its own if it can have one and has none."""
    descriptor: Any = getattr(request, "DESCRIPTOR", None)
    if descriptor is None or _ID not in descriptor.fields_by_name or getattr(request, _ID):
        return request
    with_id = copy.deepcopy(request)
    setattr(with_id, _ID, str(uuid.uuid4()))
    return with_id


def reads() -> Iterator[tuple[str, str]]:
    """All methods that only read, as service and method."""
    for proto in _SERVICES:
        for service in proto.DESCRIPTOR.services_by_name.values():
            for method in service.methods_by_name:
                if method.startswith(_READING):
                    yield service.full_name, method
