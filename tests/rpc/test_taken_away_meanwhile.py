"""A call that was admitted before its caller's right was taken away gives nothing after that."""

from __future__ import annotations

import asyncio

import pytest

from handclasp.accounts.v1 import account_service_pb2 as accounts
from handclasp.certificate_service.passwords.hashing import Argon2
from handclasp.certificates.v1 import certificate_pb2
from handclasp.certificates.v1 import certificate_service_pb2 as pb
from handclasp.client.client import HandclaspClient
from handclasp.client.csr import make_key_and_request
from handclasp.errors import HandclaspError
from tests.rpc.account_calls import PASSWORD, assign, create_user, disable, outcome
from tests.support.installation import Installation

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def active_certificates(installation: Installation, user: str) -> list[str]:
    request = pb.ListCertificatesRequest(
        user=f"users/{user}", states=[certificate_pb2.Certificate.STATE_ACTIVE], page_size=1000
    )
    return [found.name for found in (await installation.admin.certificates.ListCertificates(request)).certificates]


async def test_no_certificate_outlives_the_revocation_of_all_of_them(installation: Installation) -> None:
    """A thief who has a key asks for one certificate after the other, and is not quicker than the revocation."""
    for _ in range(4):
        user = await installation.new_user("regular-user")
        csr_pem = make_key_and_request(user).csr_pem.decode()

        async def ask_on(client: HandclaspClient, user: str, csr_pem: str) -> None:
            request = pb.IssueCertificateRequest(user=f"users/{user}", csr_pem=csr_pem)
            try:
                while True:
                    await client.certificates.IssueCertificate(request)
            except HandclaspError:
                return

        async with installation.client(await installation.issue(user)) as client:
            asking = [asyncio.create_task(ask_on(client, user, csr_pem)) for _ in range(40)]
            await asyncio.sleep(0.2)
            await installation.admin.certificates.RevokeUserCertificates(
                pb.RevokeUserCertificatesRequest(user=f"users/{user}")
            )
            await asyncio.wait(asking)
        assert await active_certificates(installation, user) == []


@pytest.mark.parametrize("how", ["revoked", "disabled", "demoted"])
async def test_no_user_is_made_on_the_strength_of_what_was_so_before(installation: Installation, how: str) -> None:
    """Many passwords to be hashed keep a call waiting between its admission and its transaction."""
    manager = await installation.new_user(grants={"USER_MANAGEMENT": f"users/of-{how}-*"})
    identity = await installation.issue(manager)
    password = PASSWORD + " of many"
    installation.secrets.add_password(password, manager)
    names = [f"of-{how}-{number}" for number in range(40)]
    async with installation.client(identity) as client:
        making = [
            asyncio.create_task(outcome(client.accounts.CreateUser(create_user(name, password=password))))
            for name in names
        ]
        await asyncio.sleep(0.05)
        match how:
            case "revoked":
                await installation.admin.certificates.RevokeCertificate(pb.RevokeCertificateRequest(name=identity.name))
            case "disabled":
                await installation.admin.accounts.DisableUser(disable(manager))
            case _:
                await installation.admin.accounts.UpdateUser(assign(manager))
        made = await users_of(installation, names)
        outcomes = await asyncio.gather(*making)
    assert await users_of(installation, names) == made
    refused = {"demoted": "ACCESS_DENIED"}.get(how, "CERTIFICATE_NOT_ACCEPTED")
    assert outcomes.count("OK") == len(made) < len(names)
    # Of one address, only so many passwords wait to be hashed.
    assert {refused} <= set(outcomes) <= {"OK", refused, "PASSWORD_CHECKS_BUSY"}


async def test_nothing_is_given_by_a_password_that_another_one_has_replaced(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a thief's call that is under way would outlive the password that was set against the thief."""
    manager = await installation.new_user(grants={"USER_MANAGEMENT": "users/by-password-*"}, password=PASSWORD)
    theirs, fresh = PASSWORD + " of the thief's", PASSWORD + " that is new"
    installation.secrets.add_password(theirs, manager)
    installation.secrets.add_password(fresh, manager)
    admitted, go_on = asyncio.Event(), asyncio.Event()
    hash_at_once = Argon2.hash

    async def hash_later(argon2: Argon2, password: str) -> str:
        if password == theirs:
            admitted.set()
            await go_on.wait()
        return await hash_at_once(argon2, password)

    monkeypatch.setattr(Argon2, "hash", hash_later)
    async with installation.client(user=manager, password=PASSWORD) as client:
        request = create_user("by-password-late", password=theirs)
        making = asyncio.create_task(outcome(client.accounts.CreateUser(request)))
        await asyncio.wait_for(admitted.wait(), 20)
        await installation.admin.accounts.SetPassword(
            accounts.SetPasswordRequest(name=f"users/{manager}", new_password=fresh)
        )
        go_on.set()
        assert await making == "CREDENTIALS_INVALID"
    assert await users_of(installation, ["by-password-late"]) == set()


async def users_of(installation: Installation, names: list[str]) -> set[str]:
    found = await installation.admin.accounts.ListUsers(accounts.ListUsersRequest(page_size=1000))
    return {user.name.removeprefix("users/") for user in found.users} & set(names)
