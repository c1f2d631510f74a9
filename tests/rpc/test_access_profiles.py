"""Access profiles: created, read, changed, deleted; what they grant counts from the next question on."""

from __future__ import annotations

import asyncio

import pytest

from handclasp.accounts.v1 import account_service_pb2 as pb
from handclasp.client.client import HandclaspClient
from handclasp.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, PermissionDenied, Reason
from tests.rpc.account_calls import (
    PASSWORD,
    WAYS,
    acting_as,
    assign,
    create_profile,
    create_user,
    grant,
    outcome,
    profile,
    question,
    reason_of,
    refused,
    set_grants,
)
from tests.support.installation import Installation

pytestmark = pytest.mark.asyncio(loop_scope="module")

BUILT_IN = ("administrator", "regular-user", "relying-party")


def get(profile_id: str) -> pb.GetAccessProfileRequest:
    return pb.GetAccessProfileRequest(name=f"accessProfiles/{profile_id}")


def delete(profile_id: str) -> pb.DeleteAccessProfileRequest:
    return pb.DeleteAccessProfileRequest(name=f"accessProfiles/{profile_id}")


async def names_seen(client: HandclaspClient) -> set[str]:
    response = await client.accounts.ListAccessProfiles(pb.ListAccessProfilesRequest(page_size=1000))
    return {item.name.removeprefix("accessProfiles/") for item in response.access_profiles}


async def test_a_profile_comes_back_as_created(installation: Installation) -> None:
    request = create_profile(
        "orders-team", grant("EXECUTE_INTEGRATIONS", "integrations/orders.*"), grant("VIEW_EXECUTIONS")
    )
    request.access_profile.grants.append(grant("VIEW_EXECUTIONS", "*"))
    request.access_profile.description = "Runs what concerns orders."
    made = await installation.admin.accounts.CreateAccessProfile(request)
    assert made == await installation.admin.accounts.GetAccessProfile(get("orders-team"))
    assert made.name == "accessProfiles/orders-team"
    assert made.description == "Runs what concerns orders."
    # The empty pattern is everything, and the same grant twice is one.
    assert list(made.grants) == [
        grant("EXECUTE_INTEGRATIONS", "integrations/orders.*"),
        grant("VIEW_EXECUTIONS", "*"),
    ]
    assert not made.built_in
    await refused(installation.admin.accounts.CreateAccessProfile(request), AlreadyExists, Reason.ACCESS_PROFILE_EXISTS)


async def test_the_order_of_grants_is_kept(installation: Installation) -> None:
    grants = [grant("EXECUTE_INTEGRATIONS", f"integrations/{number * 7 % 100}") for number in range(100)]
    made = await installation.admin.accounts.CreateAccessProfile(create_profile("in-order", *grants))
    assert list(made.grants) == grants
    assert list((await installation.admin.accounts.GetAccessProfile(get("in-order"))).grants) == grants


@pytest.mark.parametrize("profile_id", BUILT_IN)
async def test_built_in_ones_are_there_and_stay_as_they_are(installation: Installation, profile_id: str) -> None:
    accounts = installation.admin.accounts
    before = await accounts.GetAccessProfile(get(profile_id))
    assert before.built_in
    described = pb.UpdateAccessProfileRequest(access_profile=profile(profile_id, description="Mine now."))
    for call in (
        accounts.UpdateAccessProfile(set_grants(profile_id)),
        accounts.UpdateAccessProfile(described),
        accounts.DeleteAccessProfile(delete(profile_id)),
    ):
        await refused(call, FailedPrecondition, Reason.ACCESS_PROFILE_BUILT_IN)
    await refused(accounts.CreateAccessProfile(create_profile(profile_id)), AlreadyExists, Reason.ACCESS_PROFILE_EXISTS)
    assert await accounts.GetAccessProfile(get(profile_id)) == before


async def test_what_it_grants_counts_from_the_next_question_on(installation: Installation) -> None:
    profile_id = await installation.new_profile({})
    identity = await installation.issue(await installation.new_user(profile_id))
    ask = installation.relying_party.certificates.CheckPermission
    reasons = []
    for grants in (
        (),
        (grant("EXECUTE_INTEGRATIONS"),),
        (grant("EXECUTE_INTEGRATIONS", "integrations/ech"),),
        (grant("VIEW_EXECUTIONS"), grant("EXECUTE_INTEGRATIONS", "integrations/ech*")),
        (grant("VIEW_EXECUTIONS"),),
    ):
        await installation.admin.accounts.UpdateAccessProfile(set_grants(profile_id, *grants))
        reasons.append(reason_of(await ask(question(identity))))
    assert reasons == ["PERMISSION_MISSING", "ALLOWED", "RESOURCE_NOT_GRANTED", "ALLOWED", "PERMISSION_MISSING"]


async def test_one_that_somebody_has_is_not_deleted(installation: Installation) -> None:
    accounts = installation.admin.accounts
    profile_id = await installation.new_profile({"EXECUTE_INTEGRATIONS": "*"})
    user = await installation.new_user(profile_id)
    await refused(accounts.DeleteAccessProfile(delete(profile_id)), FailedPrecondition, Reason.ACCESS_PROFILE_IN_USE)
    await accounts.UpdateUser(assign(user))
    await accounts.DeleteAccessProfile(delete(profile_id))
    await refused(accounts.GetAccessProfile(get(profile_id)), NotFound, Reason.ACCESS_PROFILE_NOT_FOUND)
    await refused(accounts.DeleteAccessProfile(delete(profile_id)), NotFound, Reason.ACCESS_PROFILE_NOT_FOUND)


async def test_deleting_and_assigning_at_once_leave_no_user_with_nothing(installation: Installation) -> None:
    accounts = installation.admin.accounts
    for number in range(4):
        profile_id = await installation.new_profile({"EXECUTE_INTEGRATIONS": "*"})
        name = f"racer-{number}"
        deleted, created = await asyncio.gather(
            outcome(accounts.DeleteAccessProfile(delete(profile_id))),
            outcome(accounts.CreateUser(create_user(name, profile_id))),
        )
        assert (deleted, created) in [("OK", "ACCESS_PROFILE_NOT_FOUND"), ("ACCESS_PROFILE_IN_USE", "OK")]


@pytest.mark.parametrize(
    ("pattern", "field"),
    [("a*b", "resource_pattern"), ("a b", "resource_pattern"), ("ü", "resource_pattern"), ("\x00", "resource_pattern")],
)
async def test_patterns_that_do_not_fit_are_refused(installation: Installation, pattern: str, field: str) -> None:
    request = create_profile("bad-pattern", grant("VIEW_EXECUTIONS"), grant("EXECUTE_INTEGRATIONS", pattern))
    error = await refused(
        installation.admin.accounts.CreateAccessProfile(request), InvalidArgument, Reason.FIELD_INVALID
    )
    assert [violation.field for violation in error.violations] == [f"access_profile.grants.1.{field}"]


async def test_other_things_that_do_not_fit_are_refused(installation: Installation) -> None:
    accounts = installation.admin.accounts
    many = [grant("EXECUTE_INTEGRATIONS", f"integrations/{number}") for number in range(101)]
    unknown = grant("EXECUTE_INTEGRATIONS")
    unknown.permission = 99  # type: ignore[assignment]  # as a newer client would send it
    unspecified = grant("EXECUTE_INTEGRATIONS")
    unspecified.ClearField("permission")
    long = create_profile("bad-profile")
    long.access_profile.description = "x" * 1001
    for request in (
        create_profile("bad-profile", *many),
        create_profile("bad-profile", unknown),
        create_profile("bad-profile", unspecified),
        create_profile("Bad"),
        create_profile(""),
        long,
    ):
        await refused(accounts.CreateAccessProfile(request), InvalidArgument, Reason.FIELD_INVALID)
    await refused(accounts.GetAccessProfile(get("bad-profile")), NotFound, Reason.ACCESS_PROFILE_NOT_FOUND)


@pytest.mark.parametrize("way", WAYS)
class TestWhoMay:
    async def test_access_control_narrowed(self, installation: Installation, way: str) -> None:
        prefix = f"team-{way}"
        caller = await installation.new_user(grants={"ACCESS_CONTROL": f"accessProfiles/{prefix}-*"}, password=PASSWORD)
        await installation.admin.accounts.CreateAccessProfile(create_profile(f"{prefix}-old"))
        await installation.admin.accounts.CreateAccessProfile(create_profile(f"{prefix}old"))
        async with acting_as(installation, caller, way) as client:
            accounts = client.accounts
            await accounts.CreateAccessProfile(create_profile(f"{prefix}-new", grant("EXECUTE_INTEGRATIONS")))
            await accounts.UpdateAccessProfile(set_grants(f"{prefix}-old", grant("VIEW_EXECUTIONS")))
            await accounts.GetAccessProfile(get(f"{prefix}-old"))
            for call in (
                accounts.CreateAccessProfile(create_profile(f"{prefix}new")),
                accounts.UpdateAccessProfile(set_grants(f"{prefix}old")),
                accounts.DeleteAccessProfile(delete(f"{prefix}old")),
                accounts.DeleteAccessProfile(delete("administrator")),
            ):
                await refused(call, PermissionDenied, Reason.ACCESS_DENIED)
            await refused(accounts.GetAccessProfile(get(f"{prefix}old")), NotFound, Reason.ACCESS_PROFILE_NOT_FOUND)
            own = {name for name in await names_seen(client) if name.startswith("profile-")}
            assert await names_seen(client) - own == {f"{prefix}-old", f"{prefix}-new"}
            assert len(own) == 1
            await accounts.DeleteAccessProfile(delete(f"{prefix}-new"))

    async def test_without_it_one_sees_ones_own(self, installation: Installation, way: str) -> None:
        caller = await installation.new_user("regular-user", password=PASSWORD)
        async with acting_as(installation, caller, way) as client:
            assert await names_seen(client) == {"regular-user"}
            await client.accounts.GetAccessProfile(get("regular-user"))
            await refused(
                client.accounts.GetAccessProfile(get("administrator")), NotFound, Reason.ACCESS_PROFILE_NOT_FOUND
            )
            for call in (
                client.accounts.CreateAccessProfile(create_profile("mine")),
                client.accounts.UpdateAccessProfile(set_grants("regular-user")),
                client.accounts.DeleteAccessProfile(delete("no-such-profile")),
            ):
                await refused(call, PermissionDenied, Reason.ACCESS_DENIED)

    async def test_who_assigns_them_sees_them_all(self, installation: Installation, way: str) -> None:
        caller = await installation.new_user(grants={"USER_MANAGEMENT": "users/nobody"}, password=PASSWORD)
        async with acting_as(installation, caller, way) as client:
            assert await names_seen(client) == await names_seen(installation.admin)


async def test_patterns_tell_capitals_from_small_letters_in_lists_too(installation: Installation) -> None:
    """SQLite's LIKE does not."""
    await installation.admin.accounts.CreateAccessProfile(create_profile("spelled-small"))
    await installation.new_user(name="spelled-small")
    caller = await installation.new_user(
        grants={"ACCESS_CONTROL": "accessProfiles/SPELLED-*", "USER_MANAGEMENT": "users/SPELLED-*"}
    )
    async with acting_as(installation, caller, "certificate") as client:
        users = await client.accounts.ListUsers(pb.ListUsersRequest())
        assert [user.name for user in users.users] == [f"users/{caller}"]
        await refused(
            client.accounts.GetUser(pb.GetUserRequest(name="users/spelled-small")), NotFound, Reason.USER_NOT_FOUND
        )


@pytest.mark.parametrize("prefix", ["list_ed", "list%", "list", "list.ed-"])
async def test_no_letter_of_a_pattern_is_a_wildcard_in_lists(installation: Installation, prefix: str) -> None:
    names = ["list_ed", "listxed", "list.ed", "list.ed-1", "listed"]
    for name in names:
        await outcome(installation.admin.accounts.CreateUser(create_user(name)))
    caller = await installation.new_user(grants={"USER_MANAGEMENT": f"users/{prefix}*"})
    async with acting_as(installation, caller, "certificate") as client:
        response = await client.accounts.ListUsers(pb.ListUsersRequest())
    seen = {user.name.removeprefix("users/") for user in response.users} - {caller}
    assert seen == {name for name in names if name.startswith(prefix)}
