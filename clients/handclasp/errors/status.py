"""The one table between typed errors and gRPC status codes, and both ways across it.

An error travels as `google.rpc.Status` in the `grpc-status-details-bin` trailer, with `ErrorInfo` always, and
`BadRequest` and `RetryInfo` where they apply (https://google.aip.dev/193).
"""

from __future__ import annotations

from datetime import timedelta

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, error_details_pb2, status_pb2

from handclasp.errors import family
from handclasp.errors.family import FieldViolation, HandclaspError
from handclasp.errors.reasons import Reason

DOMAIN = "handclasp"
DETAILS_KEY = "grpc-status-details-bin"

CODES: dict[type[HandclaspError], grpc.StatusCode] = {
    family.InvalidArgument: grpc.StatusCode.INVALID_ARGUMENT,
    family.NotFound: grpc.StatusCode.NOT_FOUND,
    family.AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    family.FailedPrecondition: grpc.StatusCode.FAILED_PRECONDITION,
    family.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    family.PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    family.ResourceExhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
    family.Unavailable: grpc.StatusCode.UNAVAILABLE,
    family.Aborted: grpc.StatusCode.ABORTED,
    family.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    family.Unimplemented: grpc.StatusCode.UNIMPLEMENTED,
    family.Internal: grpc.StatusCode.INTERNAL,
}
TYPES = {code: error_type for error_type, code in CODES.items()}

# What a status without an ErrorInfo of ours is called: made by gRPC itself, or by something in between.
_BARE_REASONS = {
    grpc.StatusCode.UNAVAILABLE: Reason.SERVER_UNREACHABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: Reason.DEADLINE_EXCEEDED,
    grpc.StatusCode.UNIMPLEMENTED: Reason.METHOD_UNKNOWN,
}


_TOO_LARGE = "Received message larger than max"
"""What gRPC itself says of a message above its limit."""


def status_code(error: HandclaspError) -> grpc.StatusCode:
    """The gRPC code of an error."""
    return CODES[type(error)]


def status_details(error: HandclaspError) -> bytes:
    """The error as a serialized `google.rpc.Status`, for the trailer `DETAILS_KEY`."""
    details: list[error_details_pb2.ErrorInfo | error_details_pb2.BadRequest | error_details_pb2.RetryInfo] = [
        error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.metadata)
    ]
    if error.violations:
        fields = [
            error_details_pb2.BadRequest.FieldViolation(field=item.field, description=item.description)
            for item in error.violations
        ]
        details.append(error_details_pb2.BadRequest(field_violations=fields))
    if error.retry_after is not None:
        delay = Duration()
        delay.FromTimedelta(error.retry_after)
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    packed = []
    for detail in details:
        item = Any()
        item.Pack(detail)
        packed.append(item)
    code: int = status_code(error).value[0]
    serialized: bytes = status_pb2.Status(code=code, message=error.message, details=packed).SerializeToString()
    return serialized


def from_rpc_error(error: grpc.aio.AioRpcError) -> HandclaspError:
    """The typed error that the server raised, or the nearest one if the status is not a server's of ours."""
    code = error.code()
    error_type = TYPES.get(code, family.Internal)
    status = _status_in(error)
    info = error_details_pb2.ErrorInfo()
    reason: str = _bare_reason(error)
    violations: list[FieldViolation] = []
    retry_after: timedelta | None = None
    if status is not None:
        bad_request, retry = error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
        for detail in status.details:
            if detail.Unpack(info):
                reason = info.reason
            elif detail.Unpack(bad_request):
                violations += [FieldViolation(item.field, item.description) for item in bad_request.field_violations]
            elif detail.Unpack(retry):
                retry_after = retry.retry_delay.ToTimedelta()
    message = error.details() or code.name
    return error_type(reason, message, metadata=dict(info.metadata), violations=violations, retry_after=retry_after)


def _bare_reason(error: grpc.aio.AioRpcError) -> str:
    code = error.code()
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and _TOO_LARGE in (error.details() or ""):
        return Reason.REQUEST_TOO_LARGE
    return _BARE_REASONS.get(code, code.name)


def _status_in(error: grpc.aio.AioRpcError) -> status_pb2.Status | None:
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            try:
                status = status_pb2.Status.FromString(value)
            except DecodeError:
                return None
            known: int = error.code().value[0]
            return status if status.code == known and known != code_pb2.OK else None
    return None
