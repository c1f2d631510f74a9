"""What happens around every call of a client: credentials on the way out, typed errors on the way back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import grpc
from grpc.aio import ClientCallDetails, Metadata, UnaryUnaryCall, UnaryUnaryClientInterceptor

from handclasp.client.credentials import TlsMaterial
from handclasp.client.in_force import LONGEST_WAIT, WAITING
from handclasp.client.refusals import connection_lost, explain_unavailable, explain_unimplemented
from handclasp.errors.status import DETAILS_KEY, from_rpc_error

Request = TypeVar("Request")
Response = TypeVar("Response")


class TypedErrors(UnaryUnaryClientInterceptor):
    """Raises the error that the server raised, as the same type; and for what gRPC itself reports, one that says what
    to check. Outermost of the interceptors of a server's channel."""

    def __init__(self, address: str, tls: TlsMaterial) -> None:
        self._address = address
        self._tls = tls

    async def intercept_unary_unary(
        self,
        continuation: Callable[[ClientCallDetails, Request], Awaitable[UnaryUnaryCall[Request, Response]]],
        client_call_details: ClientCallDetails,
        request: Request,
    ) -> Response | UnaryUnaryCall[Request, Response]:
        try:
            call = await continuation(client_call_details, request)
            await call
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE and not _from_the_service(error):
                raise explain_unavailable(error.details() or "", self._address, self._tls) from error
            if _broken_off(error) and not _from_the_service(error):
                raise connection_lost(self._address) from error
            if error.code() is grpc.StatusCode.UNIMPLEMENTED and not _from_the_service(error):
                raise explain_unimplemented(client_call_details.method, self._address) from error
            raise from_rpc_error(error) from error
        return call


class DefaultTimeout(UnaryUnaryClientInterceptor):
    """Gives calls without a timeout the default one; those that wait until something is in force, as much more as that
    can take: if they were given up before, their caller would not know."""

    def __init__(self, timeout: float | None) -> None:
        self._timeout = timeout

    async def intercept_unary_unary(
        self,
        continuation: Callable[[ClientCallDetails, Request], Awaitable[UnaryUnaryCall[Request, Response]]],
        client_call_details: ClientCallDetails,
        request: Request,
    ) -> Response | UnaryUnaryCall[Request, Response]:
        if client_call_details.timeout is None and self._timeout is not None:
            longer = LONGEST_WAIT if _name(client_call_details.method) in WAITING else 0.0
            client_call_details = _changed(client_call_details, timeout=self._timeout + longer)
        return await continuation(client_call_details, request)


class BasicAuthentication(UnaryUnaryClientInterceptor):
    """Sends Basic credentials with every call. gRPC encrypts them, since our channels are always TLS."""

    def __init__(self, header: str) -> None:
        self._header = header

    async def intercept_unary_unary(
        self,
        continuation: Callable[[ClientCallDetails, Request], Awaitable[UnaryUnaryCall[Request, Response]]],
        client_call_details: ClientCallDetails,
        request: Request,
    ) -> Response | UnaryUnaryCall[Request, Response]:
        metadata = Metadata(*(client_call_details.metadata or ()), ("authorization", self._header))
        return await continuation(_changed(client_call_details, metadata=metadata), request)


def _changed(
    details: ClientCallDetails, *, timeout: float | None = None, metadata: Metadata | None = None
) -> ClientCallDetails:
    return ClientCallDetails(
        details.method,
        details.timeout if timeout is None else timeout,
        details.metadata if metadata is None else metadata,
        details.credentials,
        details.wait_for_ready,
    )


def _name(method: str | bytes) -> str:
    # grpcio has bytes where its annotations say str.
    return (method.decode() if isinstance(method, bytes) else method).rpartition("/")[2]


def _broken_off(error: grpc.aio.AioRpcError) -> bool:
    """Of a call that reached a server while it stopped; or whose stream was reset, which gRPC tells as one status or
    another by the number that came along, INTERNAL among them. Whoever cancels a call gets no status."""
    return error.code() is grpc.StatusCode.CANCELLED or "RST_STREAM" in (error.details() or "")


def _from_the_service(error: grpc.aio.AioRpcError) -> bool:
    return any(key == DETAILS_KEY for key, _ in error.trailing_metadata() or ())
