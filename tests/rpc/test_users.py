"""Users: created, read, changed, disabled; the last administrator stays."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from handclasp.accounts.v1 import account_service_pb2 as pb
from handclasp.accounts.v1 import user_pb2
from handclasp.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Reason,
    Unauthenticated,
)
from tests.rpc.account_calls import (
    PASSWORD,
    assign,
    create_user,
    disable,
    enable,
    get_user,
    issue_with_key,
    outcome,
    question,
    reason_of,
    refused,
)
from tests.support.installation import Installation, running_installation

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_user_comes_back_as_created(installation: Installation) -> None:
    before = installation.clock()
    request = create_user("maria.o-neill_2", "regular-user", "regular-user", password=PASSWORD)
    request.user.display_name = "Maria O’Neill"

    made = await installation.admin.accounts.CreateUser(request)

    assert made == await installation.admin.accounts.GetUser(get_user("maria.o-neill_2"))
    assert made.name == "users/maria.o-neill_2"
    assert made.display_name == "Maria O’Neill"
    assert made.access_profiles == ["accessProfiles/regular-user"]
    assert made.state == user_pb2.User.STATE_ACTIVE
    assert made.has_password
    assert before <= made.create_time.ToDatetime(before.tzinfo) <= installation.clock()
    assert made.update_time == made.create_time
    assert not made.HasField("disable_time")


async def test_a_user_without_profiles_may_do_nothing(installation: Installation) -> None:
    user = await installation.new_user()
    identity = await installation.issue(user)
    decision = await installation.relying_party.certificates.CheckPermission(question(identity))
    assert reason_of(decision) == "PERMISSION_MISSING"


@pytest.mark.parametrize("user_id", ["", "A", "-a", ".a", "a" * 64, "a b", "ä", "a/b", "a\n", "a*", "user:x"])
async def test_ids_that_do_not_fit_are_refused(installation: Installation, user_id: str) -> None:
    error = await refused(
        installation.admin.accounts.CreateUser(create_user(user_id)), InvalidArgument, Reason.FIELD_INVALID
    )
    assert [violation.field for violation in error.violations] == ["user_id"]


@pytest.mark.parametrize(
    "name", ["", "users", "users/", "Users/alice", "users/alice/x", "accessProfiles/alice", "users/A", "users/a\n"]
)
async def test_names_that_do_not_fit_are_refused(installation: Installation, name: str) -> None:
    error = await refused(
        installation.admin.accounts.GetUser(pb.GetUserRequest(name=name)), InvalidArgument, Reason.FIELD_INVALID
    )
    assert [violation.field for violation in error.violations] == ["name"]


async def test_the_longest_id_works_everywhere(installation: Installation) -> None:
    user = await installation.new_user("regular-user", name="z" * 63)
    identity = await installation.issue(user)
    assert (await installation.relying_party.certificates.CheckPermission(question(identity))).user == f"users/{user}"


@pytest.mark.parametrize("display_name", ["x" * 201, "a\nb", "a\x00b", "a\u202eb", "a\u2028b"])
async def test_display_names_that_do_not_fit_are_refused_and_change_nothing(
    installation: Installation, display_name: str
) -> None:
    user = await installation.new_user()
    before = await installation.admin.accounts.GetUser(get_user(user))
    request = pb.UpdateUserRequest(user=user_pb2.User(name=f"users/{user}", display_name=display_name))
    error = await refused(installation.admin.accounts.UpdateUser(request), InvalidArgument, Reason.FIELD_INVALID)
    assert [violation.field for violation in error.violations] == ["user.display_name"]
    assert await installation.admin.accounts.GetUser(get_user(user)) == before


async def test_ids_are_never_used_again(installation: Installation) -> None:
    user = await installation.new_user()
    await refused(installation.admin.accounts.CreateUser(create_user(user)), AlreadyExists, Reason.USER_EXISTS)
    await installation.admin.accounts.DisableUser(disable(user))
    await refused(installation.admin.accounts.CreateUser(create_user(user)), AlreadyExists, Reason.USER_EXISTS)
    assert (await installation.admin.accounts.GetUser(get_user(user))).state == user_pb2.User.STATE_DISABLED


async def test_of_many_who_create_the_same_user_one_does(installation: Installation) -> None:
    calls = [
        outcome(installation.admin.accounts.CreateUser(create_user("wanted-by-many", password=f"{PASSWORD} {number}")))
        for number in range(8)
    ]
    assert sorted(await asyncio.gather(*calls)) == ["OK"] + ["USER_EXISTS"] * 7


async def test_an_unknown_profile_creates_no_user(installation: Installation) -> None:
    await refused(
        installation.admin.accounts.CreateUser(create_user("half-made", "regular-user", "no-such-profile")),
        NotFound,
        Reason.ACCESS_PROFILE_NOT_FOUND,
    )
    await refused(installation.admin.accounts.GetUser(get_user("half-made")), NotFound, Reason.USER_NOT_FOUND)


async def test_too_many_profiles_are_refused(installation: Installation) -> None:
    many = [f"profile-{number}" for number in range(51)]
    await refused(
        installation.admin.accounts.CreateUser(create_user("holds-many", *many)), InvalidArgument, Reason.FIELD_INVALID
    )


async def test_only_what_the_mask_names_changes(installation: Installation) -> None:
    user = await installation.new_user("regular-user")
    request = pb.UpdateUserRequest(user=user_pb2.User(name=f"users/{user}", display_name="New"))

    request.update_mask.paths[:] = ["display_name"]
    changed = await installation.admin.accounts.UpdateUser(request)
    assert (changed.display_name, list(changed.access_profiles)) == ("New", ["accessProfiles/regular-user"])
    assert changed.update_time.ToDatetime() > changed.create_time.ToDatetime()

    request.update_mask.paths[:] = ["access_profiles"]
    request.user.display_name = "Newer"
    changed = await installation.admin.accounts.UpdateUser(request)
    assert (changed.display_name, list(changed.access_profiles)) == ("New", [])

    request.update_mask.paths[:] = ["*"]
    changed = await installation.admin.accounts.UpdateUser(request)
    assert (changed.display_name, list(changed.access_profiles)) == ("Newer", [])


@pytest.mark.parametrize("path", ["state", "name", "has_password", "display_name.x", "password"])
async def test_masks_that_name_something_else_are_refused(installation: Installation, path: str) -> None:
    user = await installation.new_user()
    request = pb.UpdateUserRequest(
        user=user_pb2.User(name=f"users/{user}", display_name="New", state=user_pb2.User.STATE_DISABLED)
    )
    request.update_mask.paths.append(path)
    error = await refused(installation.admin.accounts.UpdateUser(request), InvalidArgument, Reason.FIELD_INVALID)
    assert [violation.field for violation in error.violations] == ["update_mask"]
    unchanged = await installation.admin.accounts.GetUser(get_user(user))
    assert (unchanged.display_name, unchanged.state) == ("", user_pb2.User.STATE_ACTIVE)


async def test_an_update_that_changes_nothing_says_so(installation: Installation) -> None:
    user = await installation.new_user()
    request = pb.UpdateUserRequest(user=user_pb2.User(name=f"users/{user}"))
    await refused(installation.admin.accounts.UpdateUser(request), InvalidArgument, Reason.FIELD_INVALID)


async def test_a_disabled_user_can_do_nothing_and_an_enabled_one_can_again(installation: Installation) -> None:
    user = await installation.new_user("regular-user", password=PASSWORD)
    identity = await installation.issue(user)
    async with (
        installation.client(identity) as by_certificate,
        installation.client(user=user, password=PASSWORD) as by_password,
        installation.client(identity, user=user, password=PASSWORD) as by_both,
    ):
        clients = (by_certificate, by_password, by_both)
        for client in clients:
            await client.accounts.GetUser(get_user(user))

        disabled = await installation.admin.accounts.DisableUser(disable(user))
        assert disabled.state == user_pb2.User.STATE_DISABLED
        assert disabled.HasField("disable_time")
        for client, reason in zip(
            clients,
            (Reason.CERTIFICATE_NOT_ACCEPTED, Reason.CREDENTIALS_INVALID, Reason.CERTIFICATE_NOT_ACCEPTED),
            strict=True,
        ):
            await refused(client.accounts.GetUser(get_user(user)), Unauthenticated, reason)
        decision = await installation.relying_party.certificates.CheckPermission(question(identity))
        assert reason_of(decision) == "USER_DISABLED"

        enabled = await installation.admin.accounts.EnableUser(enable(user))
        assert enabled.state == user_pb2.User.STATE_ACTIVE
        assert not enabled.HasField("disable_time")
        for client in clients:
            await client.accounts.GetUser(get_user(user))
        assert (await installation.relying_party.certificates.CheckPermission(question(identity))).allowed


async def test_a_disabled_user_cannot_be_given_a_certificate(installation: Installation) -> None:
    user = await installation.new_user("regular-user")
    await installation.admin.accounts.DisableUser(disable(user))
    await refused(
        installation.admin.certificates.IssueCertificate(issue_with_key(user)),
        FailedPrecondition,
        Reason.USER_IS_DISABLED,
    )


async def test_disabling_and_enabling_again_change_nothing(installation: Installation) -> None:
    user = await installation.new_user()
    assert await installation.admin.accounts.EnableUser(enable(user)) == await installation.admin.accounts.GetUser(
        get_user(user)
    )
    disabled = await installation.admin.accounts.DisableUser(disable(user))
    assert await installation.admin.accounts.DisableUser(disable(user)) == disabled


@pytest.mark.parametrize("call", ["GetUser", "DisableUser", "EnableUser", "SetPassword", "UpdateUser"])
async def test_who_does_not_exist_is_not_found(installation: Installation, call: str) -> None:
    accounts = installation.admin.accounts
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "GetUser": lambda: accounts.GetUser(get_user("nobody")),
        "DisableUser": lambda: accounts.DisableUser(disable("nobody")),
        "EnableUser": lambda: accounts.EnableUser(enable("nobody")),
        "SetPassword": lambda: accounts.SetPassword(pb.SetPasswordRequest(name="users/nobody", new_password=PASSWORD)),
        "UpdateUser": lambda: accounts.UpdateUser(assign("nobody", "regular-user")),
    }
    await refused(calls[call](), NotFound, Reason.USER_NOT_FOUND)


class TestTheLastAdministrator:
    async def test_stays(self, tmp_path: Path, database_url: str) -> None:
        async with running_installation(tmp_path, database_url) as installation:
            accounts = installation.admin.accounts
            # Neither somebody with all the same grants in a profile of their own, nor a disabled one counts.
            await installation.new_user(grants={"USER_MANAGEMENT": "*", "ACCESS_CONTROL": "*"})
            disabled = await installation.new_user("administrator")
            await accounts.DisableUser(disable(disabled))

            await refused(accounts.DisableUser(disable("admin")), FailedPrecondition, Reason.LAST_ADMINISTRATOR)
            await refused(accounts.UpdateUser(assign("admin")), FailedPrecondition, Reason.LAST_ADMINISTRATOR)
            await refused(
                accounts.UpdateUser(assign("admin", "regular-user")), FailedPrecondition, Reason.LAST_ADMINISTRATOR
            )
            admin = await accounts.GetUser(get_user("admin"))
            assert admin.state == user_pb2.User.STATE_ACTIVE
            assert admin.access_profiles == ["accessProfiles/administrator"]

            # A disabled one is not the last, whatever is done to it.
            await accounts.UpdateUser(assign(disabled))
            await accounts.UpdateUser(assign(disabled, "administrator"))
            await accounts.EnableUser(enable(disabled))
            identity = await installation.issue(disabled)
            assert (await accounts.UpdateUser(assign("admin", "regular-user"))).name == "users/admin"
            async with installation.client(identity) as other:
                await refused(
                    other.accounts.DisableUser(disable(disabled)), FailedPrecondition, Reason.LAST_ADMINISTRATOR
                )

    async def test_stays_when_two_take_it_from_each_other_at_once(self, tmp_path: Path, database_url: str) -> None:
        async with running_installation(tmp_path, database_url) as installation:
            second = await installation.new_user("administrator")
            async with installation.client(await installation.issue(second)) as other:
                clients = {"admin": other, second: installation.admin}
                for number in range(6):
                    # Each takes it from the other: by disabling, by taking the profile away, by one of each.
                    calls = [
                        outcome(
                            clients[target].accounts.DisableUser(disable(target))
                            if number % 3 == 0 or (number % 3 == 2 and target == second)
                            else clients[target].accounts.UpdateUser(assign(target))
                        )
                        for target in ("admin", second)
                    ]
                    outcomes = await asyncio.gather(*calls)
                    assert outcomes.count("OK") == 1, outcomes
                    loser = ("admin", second)[outcomes.index("OK")]
                    winner = clients[loser]
                    holder = await winner.accounts.GetUser(get_user("admin" if loser == second else second))
                    assert holder.state == user_pb2.User.STATE_ACTIVE
                    assert holder.access_profiles == ["accessProfiles/administrator"]
                    await winner.accounts.EnableUser(enable(loser))
                    await winner.accounts.UpdateUser(assign(loser, "administrator"))
