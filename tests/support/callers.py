"""What bystanders call, through the client that is published: on a connection that is kept, or on a new one each time.

Bystander("echo, new connections", anew, (who, echo))
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from handclasp.accounts.v1 import account_service_pb2
from handclasp.certificates.v1 import certificate_service_pb2
from handclasp.client.client import HandclaspClient
from handclasp.client.credentials import BasicCredentials, TlsMaterial
from handclasp.integrations.v1 import integration_service_pb2
from tests.support.bystanders import MakeCall


@dataclass(frozen=True)
class Who:
    """A legitimate caller, and where the services are, so that another process can be told.

    Args:
        user: the id of the user who calls.
        certificates: `host:port` of the listener of the certificate service that fits the credentials.
    """

    user: str
    ca_pem: bytes
    certificates: str
    executions: str
    certificate_pem: bytes | None = None
    key_pem: bytes | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)

    def client(self) -> HandclaspClient:
        """Close it."""
        return HandclaspClient(
            tls=TlsMaterial(self.ca_pem, self.certificate_pem, self.key_pem),
            basic=None if self.password is None else BasicCredentials(self.user, self.password),
            certificates=self.certificates,
            executions=self.executions,
        )


Use = Callable[[HandclaspClient, Who], Awaitable[object]]


@asynccontextmanager
async def kept(who: Who, use: Use) -> AsyncIterator[MakeCall]:
    """Calls on one connection."""
    async with who.client() as client:
        yield lambda: use(client, who)


@asynccontextmanager
async def anew(who: Who, use: Use) -> AsyncIterator[MakeCall]:
    """Each call on a connection of its own."""

    async def call() -> None:
        async with who.client() as client:
            await use(client, who)

    yield call


async def echo(client: HandclaspClient, who: Who) -> None:
    """Runs an integration."""
    request = integration_service_pb2.ExecuteIntegrationRequest(name="integrations/echo", input_json="{}")
    await client.integrations.ExecuteIntegration(request)


async def read_own_user(client: HandclaspClient, who: Who) -> None:
    """Asks the certificate service for what it checks credentials for."""
    await client.accounts.GetUser(account_service_pb2.GetUserRequest(name=f"users/{who.user}"))


async def read_trust_bundle(client: HandclaspClient, who: Who) -> None:
    """Asks it for what it tells everybody."""
    await client.certificates.GetTrustBundle(certificate_service_pb2.GetTrustBundleRequest())
