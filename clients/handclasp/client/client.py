"""The client: typed stubs for all services of a context, with one identity."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

import grpc

from handclasp.accounts.v1 import account_service_pb2_grpc
from handclasp.authorization.v1 import authorization_service_pb2_grpc
from handclasp.certificates.v1 import certificate_service_pb2_grpc
from handclasp.client import files
from handclasp.client.channels import open_channel
from handclasp.client.context import Context
from handclasp.client.credentials import BasicCredentials, TlsMaterial
from handclasp.client.identity import read_identity
from handclasp.errors import InvalidArgument, Reason
from handclasp.integrations.v1 import integration_service_pb2_grpc


class HandclaspClient:
    """Typed stubs for the services. Every call raises `HandclaspError`s.

        async with HandclaspClient.from_context(context.load(path)) as client:
            user = await client.accounts.GetUser(GetUserRequest(name="users/alice"))

    Connects when the first call is made. With a client certificate the certificate service is called over mTLS,
    otherwise over one-way TLS.

    Args:
        tls: what to check servers with, and what to present.
        basic: sent with every call, beside the certificate if there is one; both must name the same user then.
        certificates: `host:port` of the certificate service's listener that fits `tls`: mTLS if there is a certificate.
            Several with commas in between if it runs more than once: calls go to all of them in turn, and to another
            one if one does not answer.
        executions: `host:port` of the execution server, or several: calls stay with one for as long as it answers.
        timeout: seconds for each call to the certificate service that brings no timeout of its own; calls that take
            something away have a minute more, which the longest lease may take. Calls to the execution server have none
            by default: an integration has its own.
    """

    def __init__(
        self,
        *,
        tls: TlsMaterial,
        basic: BasicCredentials | None = None,
        certificates: str | None = None,
        executions: str | None = None,
        timeout: float = 30.0,
    ) -> None:
        self._tls = tls
        self._basic = basic
        self._certificates_address = certificates
        self._executions_address = executions
        self._timeout = timeout
        self._certificates_channel: grpc.aio.Channel | None = None
        self._executions_channel: grpc.aio.Channel | None = None

    @classmethod
    def from_context(cls, context: Context, basic: BasicCredentials | None = None) -> Self:
        """A client for whoever the context says one is.

        Args:
            context: where the services are, and who one is.
            basic: credentials instead of those that the context names.

        Raises:
            InvalidArgument: a file that it names cannot be used, or is a secret open to others.
        """
        if context.ca_file is None:
            raise InvalidArgument(
                Reason.CONTEXT_INVALID,
                "the context has no `ca_file`, so no server can be checked; get one with `handclasp trust fetch`,"
                " and name it in the context file",
            )
        certificate = key = None
        if context.certificate is not None and context.key is not None:
            certificate, key = read_identity(context.certificate, context.key)
        if basic is None and context.username is not None and context.password_file is not None:
            basic = BasicCredentials(context.username, files.read_password(context.password_file))
        return cls(
            tls=TlsMaterial(files.read_bytes(context.ca_file, "the CA file"), certificate, key),
            basic=basic,
            certificates=context.certificates_tls if certificate is None else context.certificates_mtls,
            executions=context.executions,
        )

    @property
    def basic(self) -> BasicCredentials | None:
        """The credentials that are sent with every call, if any."""
        return self._basic

    @property
    def certificates(self) -> certificate_service_pb2_grpc.CertificateServiceStub:
        """Certificates and trust anchors."""
        return certificate_service_pb2_grpc.CertificateServiceStub(self._to_certificates())

    @property
    def accounts(self) -> account_service_pb2_grpc.AccountServiceStub:
        """Users and access profiles."""
        return account_service_pb2_grpc.AccountServiceStub(self._to_certificates())

    @property
    def authorization(self) -> authorization_service_pb2_grpc.AuthorizationServiceStub:
        """Decisions."""
        return authorization_service_pb2_grpc.AuthorizationServiceStub(self._to_certificates())

    @property
    def integrations(self) -> integration_service_pb2_grpc.IntegrationServiceStub:
        """Integrations, on the execution server."""
        if self._executions_channel is None:
            address = _required(self._executions_address, "executions", "the execution server")
            if self._tls.certificate is None:
                raise InvalidArgument(
                    Reason.CREDENTIALS_MISSING,
                    "the execution server wants a client certificate, and there is none; give certificate and key",
                )
            self._executions_channel = open_channel(address, self._tls, basic=self._basic, timeout=None, spread=False)
        return integration_service_pb2_grpc.IntegrationServiceStub(self._executions_channel)

    async def close(self) -> None:
        """Closes the connections. Calls in progress are cancelled."""
        channels = [channel for channel in (self._certificates_channel, self._executions_channel) if channel]
        self._certificates_channel = self._executions_channel = None
        await asyncio.gather(*(channel.close() for channel in channels))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _to_certificates(self) -> grpc.aio.Channel:
        if self._certificates_channel is None:
            field = "certificates_tls" if self._tls.certificate is None else "certificates_mtls"
            address = _required(self._certificates_address, field, "the certificate service")
            self._certificates_channel = open_channel(address, self._tls, basic=self._basic, timeout=self._timeout)
        return self._certificates_channel


def _required(address: str | None, field: str, what: str) -> str:
    if address is None:
        raise InvalidArgument(
            Reason.CONTEXT_INVALID, f"the address of {what} is not known; put `{field}` into the context file"
        )
    return address
