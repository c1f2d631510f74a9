"""Which calls do the same when they are repeated, so that one whose answer was lost may go to another server."""

from __future__ import annotations

import copy
import uuid
from collections.abc import Iterator
from typing import Any, TypeVar

from handclasp.accounts.v1 import account_service_pb2
from handclasp.authorization.v1 import authorization_service_pb2
from handclasp.certificates.v1 import certificate_service_pb2
from handclasp.integrations.v1 import integration_service_pb2

_SERVICES = (account_service_pb2, authorization_service_pb2, certificate_service_pb2, integration_service_pb2)
_ID = "request_id"
_READING = ("Get", "List", "Check", "BatchCheck", "Explain")

Request = TypeVar("Request")


def may_be_repeated(method: str, request: Any) -> bool:
    """Whether a call is a read, or has a `request_id`.

    Args:
        method: `/package.Service/Method`.
    """
    return is_read(method) or bool(getattr(request, _ID, ""))


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
