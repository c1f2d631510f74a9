"""What tests of accounts and permissions have in common: acting as somebody, and seeing what is refused."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager

import pytest

from handclasp.accounts.v1 import access_profile_pb2, user_pb2
from handclasp.accounts.v1 import account_service_pb2 as pb
from handclasp.authorization.v1 import decision_pb2, permission_pb2
from handclasp.certificates.v1 import certificate_service_pb2
from handclasp.client.client import HandclaspClient
from handclasp.client.credentials import BasicCredentials, TlsMaterial
from handclasp.errors import HandclaspError, Reason
from tests.support.installation import Identity, Installation

PASSWORD = "correct horse battery staple"
WRONG_PASSWORD = "incorrect horse battery staple"
# The same rules hold for both.
WAYS = ("password", "certificate")

OTHER_ADDRESS = "127.0.0.2"


async def refused(call: Awaitable[object], kind: type[HandclaspError], reason: Reason) -> HandclaspError:
    """The call must fail with that error, which is returned."""
    with pytest.raises(kind) as caught:
        await call
    assert type(caught.value) is kind
    assert caught.value.reason == reason, caught.value
    return caught.value


async def outcome(call: Awaitable[object]) -> str:
    """`OK`, or the reason of the refusal."""
    try:
        await call
    except HandclaspError as error:
        return error.reason
    return "OK"


@asynccontextmanager
async def acting_as(installation: Installation, user_id: str, way: str) -> AsyncIterator[HandclaspClient]:
    """A client of a user whose password, if the way needs one, is `PASSWORD`.

    Args:
        way: one of `WAYS`, or "both".
    """
    identity = None if way == "password" else await installation.issue(user_id)
    password = None if way == "certificate" else PASSWORD
    async with installation.client(identity, user=user_id, password=password) as client:
        yield client


def grant(permission: str, pattern: str = "") -> permission_pb2.Grant:
    """`PERMISSION_` is put before the name."""
    number = permission_pb2.Permission.Value(f"PERMISSION_{permission}")
    return permission_pb2.Grant(permission=number, resource_pattern=pattern)


def profile(profile_id: str, *grants: permission_pb2.Grant, description: str = "") -> access_profile_pb2.AccessProfile:
    return access_profile_pb2.AccessProfile(name=f"accessProfiles/{profile_id}", description=description, grants=grants)


def create_profile(profile_id: str, *grants: permission_pb2.Grant) -> pb.CreateAccessProfileRequest:
    return pb.CreateAccessProfileRequest(access_profile_id=profile_id, access_profile=profile(profile_id, *grants))


def set_grants(profile_id: str, *grants: permission_pb2.Grant) -> pb.UpdateAccessProfileRequest:
    request = pb.UpdateAccessProfileRequest(access_profile=profile(profile_id, *grants))
    request.update_mask.paths.append("grants")
    return request


def create_user(user_id: str, *profiles: str, password: str = "") -> pb.CreateUserRequest:
    user = user_pb2.User(access_profiles=[f"accessProfiles/{profile_id}" for profile_id in profiles])
    return pb.CreateUserRequest(user_id=user_id, user=user, password=password)


def assign(user_id: str, *profiles: str) -> pb.UpdateUserRequest:
    """Sets the user's access profiles to these."""
    user = user_pb2.User(name=f"users/{user_id}", access_profiles=[f"accessProfiles/{name}" for name in profiles])
    request = pb.UpdateUserRequest(user=user)
    request.update_mask.paths.append("access_profiles")
    return request


def get_user(user_id: str) -> pb.GetUserRequest:
    return pb.GetUserRequest(name=f"users/{user_id}")


def disable(user_id: str) -> pb.DisableUserRequest:
    return pb.DisableUserRequest(name=f"users/{user_id}")


def enable(user_id: str) -> pb.EnableUserRequest:
    return pb.EnableUserRequest(name=f"users/{user_id}")


def set_password(user_id: str, new: str, old: str = "") -> pb.SetPasswordRequest:
    return pb.SetPasswordRequest(name=f"users/{user_id}", new_password=new, old_password=old)


def issue_with_key(user_id: str) -> certificate_service_pb2.IssueCertificateRequest:
    """The service makes the key, which spares tests of permissions the making of a request."""
    return certificate_service_pb2.IssueCertificateRequest(
        user=f"users/{user_id}", generate_key=certificate_service_pb2.KEY_ALGORITHM_EC_P256
    )


def token_for(user_id: str) -> certificate_service_pb2.CreateEnrollmentTokenRequest:
    return certificate_service_pb2.CreateEnrollmentTokenRequest(user=f"users/{user_id}")


def question(
    identity: Identity | bytes,
    resource: str = "integrations/echo",
    *,
    permission: str = "EXECUTE_INTEGRATIONS",
    credentials: tuple[str, str] | None = None,
    address: str = "",
) -> certificate_service_pb2.CheckPermissionRequest:
    """May the peer that presented this certificate do that?"""
    basic = None
    if credentials is not None:
        basic = decision_pb2.BasicCredentials(username=credentials[0], password=credentials[1])
    return certificate_service_pb2.CheckPermissionRequest(
        peer_certificate=identity if isinstance(identity, bytes) else identity.der,
        basic_credentials=basic,
        permission=permission_pb2.Permission.Value(f"PERMISSION_{permission}"),
        resource=resource,
        peer_address=address,
    )


def reason_of(decision: decision_pb2.Decision) -> str:
    return decision_pb2.DecisionReason.Name(decision.reason).removeprefix("DECISION_REASON_")


@asynccontextmanager
async def calling_from(address: str, ports: Mapping[str, int]) -> AsyncIterator[int]:
    """The port of a relay to the one-way TLS listener. The listener sees its callers at that loopback address."""
    pumps: set[asyncio.Task[None]] = set()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inward, outward = await asyncio.open_connection("127.0.0.1", ports["tls_port"], local_addr=(address, 0))
        for source, sink in ((reader, outward), (inward, writer)):
            pumps.add(asyncio.create_task(_pump(source, sink)))

    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
    except ConnectionError:
        return
    finally:
        with contextlib.suppress(ConnectionError):
            sink.close()


def client_at(installation: Installation, port: int, user_id: str, password: str) -> HandclaspClient:
    """A client by password at another port than the listener's own."""
    return HandclaspClient(
        tls=TlsMaterial(installation.ca_pem),
        basic=BasicCredentials(user_id, password),
        certificates=f"localhost:{port}",
    )
