"""What somebody would try who means harm: each test is an attack that worked once, or a race that must not be won."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

from handclasp.accounts.v1 import account_service_pb2
from handclasp.certificates.v1 import certificate_service_pb2 as pb
from handclasp.client.csr import make_key_and_request
from handclasp.errors import HandclaspError, InvalidArgument, PermissionDenied, ResourceExhausted, Unauthenticated
from tests.rpc.account_calls import (
    PASSWORD,
    assign,
    create_user,
    disable,
    enable,
    grant,
    issue_with_key,
    question,
    set_grants,
    set_password,
)
from tests.rpc.certificate_harness import add_anchor, held, refusal, upload
from tests.support.installation import Identity, Installation
from tests.support.outside_ca import OutsideCA

pytestmark = pytest.mark.asyncio(loop_scope="module")

# In NFC they would be put in order, which takes the square of their number.
_DISORDER = "a" + "\u0315\u0300" * 20

# A taking-away, and what undoes it.
TakingAway = tuple[Callable[[], Awaitable[object]], Callable[[], Awaitable[object]] | None]


@pytest.mark.parametrize("way", ["display name", "description", "label", "new password"])
async def test_texts_that_take_long_to_compose_are_refused(installation: Installation, way: str) -> None:
    user = await installation.new_user("administrator")
    identity = await installation.issue(user)
    async with installation.client(identity) as client:
        certificate = {"name": identity.name}
        calls: Mapping[str, Callable[[], Awaitable[Any]]] = {
            "display name": lambda: client.accounts.UpdateUser(
                account_service_pb2.UpdateUserRequest(user={"name": f"users/{user}", "display_name": _DISORDER})  # type: ignore[arg-type]  # protobuf takes a dict for a message
            ),
            "description": lambda: client.certificates.UpdateCertificate(
                pb.UpdateCertificateRequest(certificate={**certificate, "description": _DISORDER})  # type: ignore[arg-type]  # the same
            ),
            "label": lambda: client.certificates.UpdateCertificate(
                pb.UpdateCertificateRequest(certificate={**certificate, "labels": {"a": _DISORDER}})  # type: ignore[arg-type]  # the same
            ),
            "new password": lambda: client.accounts.SetPassword(set_password(user, _DISORDER)),
        }
        with pytest.raises(InvalidArgument) as caught:
            await calls[way]()
    assert "combining characters" in caught.value.violations[0].description


async def test_a_password_that_takes_long_to_compose_is_a_wrong_one(installation: Installation) -> None:
    user = await installation.new_user(password=PASSWORD)
    async with installation.client(user=user, password=_DISORDER) as client:
        await refusal(
            client.accounts.ListUsers(account_service_pb2.ListUsersRequest()), Unauthenticated, "CREDENTIALS_INVALID"
        )


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("IssueCertificate", pb.IssueCertificateRequest(labels={str(number): "" for number in range(40_000)})),
        ("ListCertificates", pb.ListCertificatesRequest(serial="0" * 300_000)),
        ("UploadCertificate", pb.UploadCertificateRequest(pem="x" * 1_000_000)),
    ],
)
async def test_requests_that_take_long_to_parse_are_refused_unparsed(
    installation: Installation, method: str, request_: Message
) -> None:
    """By gRPC itself, once the caller is admitted."""
    async with installation.client(await installation.issue(await installation.new_user())) as client:
        await refusal(getattr(client.certificates, method)(request_), ResourceExhausted, "REQUEST_TOO_LARGE")


async def test_a_server_certificate_with_the_services_own_name_needs_all_administrative_permissions(
    installation: Installation,
) -> None:
    """Whoever has its key can pass for the service, and is sent everybody's passwords."""
    grants = {"AUTHORIZE_PEERS": "integrations/mine"}
    server = await installation.new_user(grants=grants)
    manager = await installation.new_user(grants={"USER_MANAGEMENT": f"users/{server}", **grants})
    request_ = make_key_and_request(server).csr_pem.decode()

    def issue(*names: str) -> pb.IssueCertificateRequest:
        return pb.IssueCertificateRequest(user=f"users/{server}", csr_pem=request_, server_names=names)

    async with installation.client(await installation.issue(manager)) as client:
        await client.certificates.IssueCertificate(issue("mine.example.org"))
        for own in ("localhost", "LOCALHOST", "127.0.0.1", "0:0:0:0:0:0:0:1"):
            await refusal(
                client.certificates.IssueCertificate(issue("mine.example.org", own)),
                PermissionDenied,
                "ADMINISTRATOR_PROTECTED",
            )
    await installation.admin.certificates.IssueCertificate(issue("localhost"))


async def test_a_users_certificate_is_no_servers_whatever_the_user_is_called(installation: Installation) -> None:
    """Some TLS stacks take the common name for a host's, and an id may look like one."""
    try:
        await installation.admin.accounts.CreateUser(create_user("localhost", "regular-user"))
    except HandclaspError as error:
        assert error.reason == "USER_EXISTS"  # noqa: PT017 - another test's, which is as good
    identity = await installation.issue("localhost")
    server = grpc.aio.server()
    credentials = grpc.ssl_server_credentials([(identity.key_pem, identity.certificate_pem)])
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    try:
        trusting = grpc.ssl_channel_credentials(installation.ca_pem)
        async with grpc.aio.secure_channel(f"localhost:{port}", trusting) as channel:
            call: Any = channel.unary_unary("/any/Method")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(b"", timeout=10)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    finally:
        await server.stop(None)


async def _revocation(installation: Installation, user: str, profile: str, identity: Identity) -> TakingAway:
    del user, profile
    request_ = pb.RevokeCertificateRequest(name=identity.name)
    return lambda: installation.admin.certificates.RevokeCertificate(request_), None


async def _disabling(installation: Installation, user: str, profile: str, identity: Identity) -> TakingAway:
    del profile, identity
    accounts = installation.admin.accounts
    return lambda: accounts.DisableUser(disable(user)), lambda: accounts.EnableUser(enable(user))


async def _emptying(installation: Installation, user: str, profile: str, identity: Identity) -> TakingAway:
    del user, identity
    accounts = installation.admin.accounts
    return (
        lambda: accounts.UpdateAccessProfile(set_grants(profile)),
        lambda: accounts.UpdateAccessProfile(set_grants(profile, grant("EXECUTE_INTEGRATIONS"))),
    )


async def _unassigning(installation: Installation, user: str, profile: str, identity: Identity) -> TakingAway:
    del identity
    accounts = installation.admin.accounts
    return lambda: accounts.UpdateUser(assign(user)), lambda: accounts.UpdateUser(assign(user, profile))


@pytest.mark.parametrize("taking", [_revocation, _disabling, _emptying, _unassigning])
async def test_no_question_asked_after_a_taking_away_returned_is_answered_with_yes(
    installation: Installation, taking: Callable[[Installation, str, str, Identity], Awaitable[TakingAway]]
) -> None:
    profile = await installation.new_profile({"EXECUTE_INTEGRATIONS": "*"})
    user = await installation.new_user(profile)
    identity = await installation.issue(user)
    take, give_back = await taking(installation, user, profile, identity)
    for _ in range(1 if give_back is None else 8):
        assert await _answers_around(installation, identity, take) == {"before": True, "after": False}
        if give_back is not None:
            await give_back()


async def test_no_question_asked_after_an_anchor_was_removed_is_answered_with_yes(installation: Installation) -> None:
    ca = OutsideCA("Raced CA", now=installation.clock())
    anchor = await add_anchor(installation, ca)
    leaf = ca.issue()
    await upload(installation, await installation.new_user("regular-user"), leaf)
    for _ in range(8):
        removal = pb.RemoveTrustAnchorRequest(name=anchor)

        async def take(removal: pb.RemoveTrustAnchorRequest = removal) -> None:
            await installation.admin.certificates.RemoveTrustAnchor(removal)

        assert await _answers_around(installation, held(leaf), take) == {"before": True, "after": False}
        anchor = await add_anchor(installation, ca)


async def _answers_around(
    installation: Installation, identity: Identity, take: Callable[[], Awaitable[object]]
) -> dict[str, bool]:
    """Whether any question was answered with yes that was asked before the taking-away, and any asked after it."""
    request_ = question(identity)
    yes = {"before": False, "after": False}
    taken, enough = asyncio.Event(), asyncio.Event()

    async def ask() -> None:
        while not enough.is_set():
            when = "after" if taken.is_set() else "before"
            decision = await installation.relying_party.certificates.CheckPermission(request_)
            yes[when] |= decision.allowed

    asking = [asyncio.create_task(ask()) for _ in range(16)]
    await installation.relying_party.certificates.CheckPermission(request_)
    await take()
    taken.set()
    await installation.relying_party.certificates.CheckPermission(request_)
    enough.set()
    await asyncio.gather(*asking)
    return yes


async def test_nothing_is_issued_to_a_user_after_disabling_it_returned(installation: Installation) -> None:
    user = await installation.new_user("regular-user")
    disabled = asyncio.Event()
    issued_late: list[str] = []

    async def issue() -> None:
        late = disabled.is_set()
        try:
            response = await installation.admin.certificates.IssueCertificate(issue_with_key(user))
        except HandclaspError as error:
            assert error.reason == "USER_IS_DISABLED"  # noqa: PT017 - either may come
        else:
            issued_late.extend([response.certificate.name] if late else [])

    early = [asyncio.create_task(issue()) for _ in range(16)]
    await installation.admin.accounts.DisableUser(disable(user))
    disabled.set()
    await asyncio.gather(*early, *(issue() for _ in range(16)))
    assert issued_late == []


async def test_administrators_who_disable_each_other_at_once_leave_one(installation: Installation) -> None:
    one, other = await installation.new_user("administrator"), await installation.new_user("administrator")
    await installation.admin.accounts.UpdateUser(assign("admin", "administrator"))
    identities = [await installation.issue(user) for user in (one, other)]
    async with installation.client(identities[0]) as first, installation.client(identities[1]) as second:
        outcomes = await asyncio.gather(
            first.accounts.DisableUser(disable(other)),
            second.accounts.DisableUser(disable(one)),
            first.accounts.UpdateUser(assign(one)),
            second.accounts.UpdateUser(assign(other)),
            return_exceptions=True,
        )
    assert [error for error in outcomes if isinstance(error, Exception) and not isinstance(error, HandclaspError)] == []
    users = await installation.admin.accounts.ListUsers(account_service_pb2.ListUsersRequest(page_size=1000))
    active = [
        user
        for user in users.users
        if "accessProfiles/administrator" in user.access_profiles and not user.HasField("disable_time")
    ]
    assert active
