"""Who may do what: by User Management, by Manage Personal Setup, by neither; narrowed; and to administrators."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import pytest

from handclasp.accounts.v1 import account_service_pb2 as accounts_pb
from handclasp.accounts.v1 import user_pb2
from handclasp.certificates.v1 import certificate_pb2
from handclasp.certificates.v1 import certificate_service_pb2 as pb
from handclasp.client.client import HandclaspClient
from handclasp.client.csr import make_key_and_request
from handclasp.errors import NotFound, PermissionDenied, Reason, Unauthenticated
from tests.rpc.account_calls import (
    PASSWORD,
    WAYS,
    acting_as,
    assign,
    create_profile,
    create_user,
    disable,
    enable,
    get_user,
    grant,
    issue_with_key,
    outcome,
    question,
    reason_of,
    refused,
    set_grants,
    set_password,
    token_for,
)
from tests.support.installation import Installation, running_installation
from tests.support.outside_ca import OutsideCA

pytestmark = pytest.mark.asyncio(loop_scope="module")

ADMINISTRATIVE = ("USER_MANAGEMENT", "ACCESS_CONTROL", "TRUST_MANAGEMENT", "AUTHORIZE_PEERS", "VIEW_AUDIT_LOG")
OTHERS = ("MANAGE_PERSONAL_SETUP", "EXECUTE_INTEGRATIONS", "VIEW_EXECUTIONS")

MANAGES = {
    "issue": "OK",
    "token": "OK",
    "get": "OK",
    "update": "OK",
    "hold": "OK",
    "reinstate": "OK",
    "revoke": "OK",
    "revoke all": "OK",
    "listed": "yes",
    "listed by user": "yes",
}
DOES_NOT = {
    "issue": "ACCESS_DENIED",
    "token": "ACCESS_DENIED",
    "get": "CERTIFICATE_NOT_FOUND",
    "update": "CERTIFICATE_NOT_FOUND",
    "hold": "CERTIFICATE_NOT_FOUND",
    "reinstate": "CERTIFICATE_NOT_FOUND",
    "revoke": "CERTIFICATE_NOT_FOUND",
    "revoke all": "ACCESS_DENIED",
    "listed": "no",
    "listed by user": "no",
}


async def what_works(client: HandclaspClient, user_id: str, certificate: str) -> dict[str, str]:
    """What the client may do to a user's certificates."""
    certificates = client.certificates
    change = pb.UpdateCertificateRequest(
        certificate=certificate_pb2.Certificate(name=certificate, description="changed")
    )
    everything = await certificates.ListCertificates(pb.ListCertificatesRequest(page_size=1000))
    of_user = await certificates.ListCertificates(pb.ListCertificatesRequest(user=f"users/{user_id}"))

    def seen(response: pb.ListCertificatesResponse) -> str:
        return "yes" if any(item.name == certificate for item in response.certificates) else "no"

    return {
        "issue": await outcome(certificates.IssueCertificate(issue_with_key(user_id))),
        "token": await outcome(certificates.CreateEnrollmentToken(token_for(user_id))),
        "get": await outcome(certificates.GetCertificate(pb.GetCertificateRequest(name=certificate))),
        "update": await outcome(certificates.UpdateCertificate(change)),
        "listed": seen(everything),
        "listed by user": seen(of_user),
        "hold": await outcome(certificates.HoldCertificate(pb.HoldCertificateRequest(name=certificate))),
        "reinstate": await outcome(certificates.ReinstateCertificate(pb.ReinstateCertificateRequest(name=certificate))),
        "revoke": await outcome(certificates.RevokeCertificate(pb.RevokeCertificateRequest(name=certificate))),
        "revoke all": await outcome(
            certificates.RevokeUserCertificates(pb.RevokeUserCertificatesRequest(user=f"users/{user_id}"))
        ),
    }


async def certificates_of(installation: Installation, user_id: str) -> list[certificate_pb2.Certificate]:
    response = await installation.admin.certificates.ListCertificates(
        pb.ListCertificatesRequest(user=f"users/{user_id}", view=pb.CERTIFICATE_VIEW_FULL)
    )
    return list(response.certificates)


async def issued(installation: Installation, user_id: str) -> str:
    """The name of a new certificate of a user."""
    response = await installation.admin.certificates.IssueCertificate(issue_with_key(user_id))
    return response.certificate.name


@pytest.mark.parametrize("way", WAYS)
class TestCertificates:
    @pytest.mark.parametrize(
        ("grants", "others", "own"),
        [
            ({"USER_MANAGEMENT": "*"}, MANAGES, MANAGES),
            ({"MANAGE_PERSONAL_SETUP": "*"}, DOES_NOT, MANAGES),
            ({}, DOES_NOT, DOES_NOT),
            (dict.fromkeys(("ACCESS_CONTROL", "TRUST_MANAGEMENT", "VIEW_AUDIT_LOG"), "*"), DOES_NOT, DOES_NOT),
            ({"USER_MANAGEMENT": "certificates/*", "MANAGE_PERSONAL_SETUP": "users/x"}, DOES_NOT, DOES_NOT),
        ],
        ids=["user-management", "personal-setup", "nothing", "other-permissions", "reaching-elsewhere"],
    )
    async def test_by_permission(
        self, installation: Installation, way: str, grants: Mapping[str, str], others: object, own: object
    ) -> None:
        caller = await installation.new_user(grants=grants, password=PASSWORD)
        other = await installation.new_user("regular-user")
        for user, expected in ((other, others), (caller, own)):
            certificate = await issued(installation, user)
            async with acting_as(installation, caller, way) as client:
                before = await certificates_of(installation, user)
                assert await what_works(client, user, certificate) == expected
                if expected is DOES_NOT:
                    assert await certificates_of(installation, user) == before

    async def test_narrowed_to_some_users(self, installation: Installation, way: str) -> None:
        acme = f"acme-{way}"
        caller = await installation.new_user(grants={"USER_MANAGEMENT": f"users/{acme}-*"}, password=PASSWORD)
        reached = await installation.new_user("regular-user", name=f"{acme}-orders")
        # The prefix without its last character is not enough.
        missed = await installation.new_user("regular-user", name=f"{acme}orders")
        for user, expected in ((reached, MANAGES), (missed, DOES_NOT), (caller, DOES_NOT)):
            certificate = await issued(installation, user)
            async with acting_as(installation, caller, way) as client:
                assert await what_works(client, user, certificate) == expected

    async def test_hidden_is_answered_exactly_as_missing(self, installation: Installation, way: str) -> None:
        caller = await installation.new_user(password=PASSWORD)
        hidden = await issued(installation, await installation.new_user())
        # As like as can be: an id that the service could have made.
        missing = hidden[:-4] + "0000"
        async with acting_as(installation, caller, way) as client:
            answers = []
            for name in (hidden, missing):
                error = await refused(
                    client.certificates.GetCertificate(pb.GetCertificateRequest(name=name)),
                    NotFound,
                    Reason.CERTIFICATE_NOT_FOUND,
                )
                answers.append((error.message.replace(name, "NAME"), error.metadata, error.violations))
        assert answers[0] == answers[1]

    async def test_who_issued_and_with_what_is_on_record(self, installation: Installation, way: str) -> None:
        caller = await installation.new_user(grants={"USER_MANAGEMENT": "*"}, password=PASSWORD)
        user = await installation.new_user()
        async with acting_as(installation, caller, way) as client:
            certificate = (await client.certificates.IssueCertificate(issue_with_key(user))).certificate
        own = await certificates_of(installation, caller)
        assert certificate.created_by == f"users/{caller}"
        assert certificate.created_with == ("" if way == "password" else own[0].name)


@pytest.mark.parametrize("way", WAYS)
class TestRenewing:
    """It takes the certificate itself, and nothing else: no permission is needed, and none will do instead."""

    @pytest.mark.parametrize("profiles", [(), ("administrator",)], ids=["nothing", "everything"])
    async def test_only_by_the_certificate_that_is_presented(
        self, installation: Installation, way: str, profiles: tuple[str, ...]
    ) -> None:
        caller = await installation.new_user(*profiles, password=PASSWORD)
        other = await installation.new_user("regular-user")
        expected = {"password": "MUTUAL_TLS_REQUIRED", "certificate": "NOT_THE_HOLDER"}[way]
        csr = make_key_and_request().csr_pem.decode()
        for user in (other, caller):
            name = await issued(installation, user)
            async with acting_as(installation, caller, way) as client:
                before = await certificates_of(installation, user)
                renewing = client.certificates.RenewCertificate(pb.RenewCertificateRequest(name=name, csr_pem=csr))
                assert await outcome(renewing) == expected
                assert await certificates_of(installation, user) == before

    async def test_by_itself(self, installation: Installation, way: str) -> None:
        caller = await installation.new_user(password=PASSWORD)
        identity = await installation.issue(caller)
        csr = make_key_and_request().csr_pem.decode()
        # The password is no help, and no harm, beside it.
        password = PASSWORD if way == "password" else None
        async with installation.client(identity, user=caller, password=password) as client:
            await client.certificates.RenewCertificate(pb.RenewCertificateRequest(name=identity.name, csr_pem=csr))


@pytest.mark.parametrize("way", WAYS)
class TestUsers:
    async def test_user_management_reaches_every_user(self, installation: Installation, way: str) -> None:
        caller = await installation.new_user(grants={"USER_MANAGEMENT": "*"}, password=PASSWORD)
        user = await installation.new_user("regular-user")
        async with acting_as(installation, caller, way) as client:
            works = await self._what_works(client, user, f"made-by-{caller}")
        assert set(works.values()) == {"OK", "yes"}

    @pytest.mark.parametrize("grants", [{}, {"MANAGE_PERSONAL_SETUP": "*", "ACCESS_CONTROL": "*"}])
    async def test_without_it_others_do_not_exist(
        self, installation: Installation, way: str, grants: Mapping[str, str]
    ) -> None:
        caller = await installation.new_user(grants=grants, password=PASSWORD)
        user = await installation.new_user("regular-user")
        before = await installation.admin.accounts.GetUser(get_user(user))
        async with acting_as(installation, caller, way) as client:
            existing = await self._what_works(client, user, f"not-made-by-{caller}")
            missing = await self._what_works(client, "no-such-user", f"not-made-by-{caller}")
            assert (await client.accounts.ListUsers(accounts_pb.ListUsersRequest())).users == [
                await client.accounts.GetUser(get_user(caller))
            ]
        assert existing == missing
        assert existing == {
            "create": "ACCESS_DENIED",
            "get": "USER_NOT_FOUND",
            "update": "ACCESS_DENIED",
            "disable": "ACCESS_DENIED",
            "enable": "ACCESS_DENIED",
            "set password": "ACCESS_DENIED",
            "listed": "no",
        }
        assert await installation.admin.accounts.GetUser(get_user(user)) == before

    async def test_nobody_changes_their_own_profiles_or_state_without_it(
        self, installation: Installation, way: str
    ) -> None:
        caller = await installation.new_user("regular-user", password=PASSWORD)
        async with acting_as(installation, caller, way) as client:
            accounts = client.accounts
            for call in (
                accounts.UpdateUser(assign(caller, "administrator")),
                accounts.UpdateUser(assign(caller)),
                accounts.DisableUser(disable(caller)),
            ):
                await refused(call, PermissionDenied, Reason.ACCESS_DENIED)

    async def test_narrowed_to_some_users(self, installation: Installation, way: str) -> None:
        firm = f"firm-{way}"
        caller = await installation.new_user(grants={"USER_MANAGEMENT": f"users/{firm}-*"}, password=PASSWORD)
        inside = await installation.new_user("regular-user", name=f"{firm}-inside")
        outside = await installation.new_user("regular-user", name=f"{firm}outside")
        async with acting_as(installation, caller, way) as client:
            works = await self._what_works(client, inside, f"{firm}-made")
            assert set(works.values()) == {"OK", "yes"}
            works = await self._what_works(client, outside, f"{firm}made")
            assert set(works.values()) == {"ACCESS_DENIED", "USER_NOT_FOUND", "no"}
            listed = await client.accounts.ListUsers(accounts_pb.ListUsersRequest())
            assert {user.name for user in listed.users} == {
                f"users/{caller}",
                f"users/{inside}",
                f"users/{firm}-made",
            }

    async def _what_works(self, client: HandclaspClient, user_id: str, fresh: str) -> dict[str, str]:
        accounts = client.accounts
        rename = accounts_pb.UpdateUserRequest(user=user_pb2.User(name=f"users/{user_id}", display_name="Renamed"))
        listed = await accounts.ListUsers(accounts_pb.ListUsersRequest(page_size=1000))
        return {
            "create": await outcome(accounts.CreateUser(create_user(fresh))),
            "get": await outcome(accounts.GetUser(get_user(user_id))),
            "update": await outcome(accounts.UpdateUser(rename)),
            "disable": await outcome(accounts.DisableUser(disable(user_id))),
            "enable": await outcome(accounts.EnableUser(enable(user_id))),
            "set password": await outcome(accounts.SetPassword(set_password(user_id, PASSWORD))),
            "listed": "yes" if any(user.name == f"users/{user_id}" for user in listed.users) else "no",
        }


async def test_hidden_users_and_profiles_are_answered_exactly_as_missing_ones(installation: Installation) -> None:
    caller = await installation.new_user()
    user = await installation.new_user()
    profile_id = await installation.new_profile({"EXECUTE_INTEGRATIONS": "*"})
    async with acting_as(installation, caller, "certificate") as client:
        answers = []
        for name in (user, "missing-user"):
            error = await refused(client.accounts.GetUser(get_user(name)), NotFound, Reason.USER_NOT_FOUND)
            answers.append((error.message.replace(name, "NAME"), error.metadata))
        assert answers[0] == answers[1]
        answers = []
        for name in (profile_id, "missing-profile"):
            request = accounts_pb.GetAccessProfileRequest(name=f"accessProfiles/{name}")
            error = await refused(client.accounts.GetAccessProfile(request), NotFound, Reason.ACCESS_PROFILE_NOT_FOUND)
            answers.append((error.message.replace(name, "NAME"), error.metadata))
        assert answers[0] == answers[1]


async def test_a_permission_taken_away_is_gone_for_the_next_call(installation: Installation) -> None:
    profile_id = await installation.new_profile({"USER_MANAGEMENT": "*"})
    caller = await installation.new_user(profile_id)
    user = await installation.new_user()
    async with acting_as(installation, caller, "certificate") as client:
        await client.accounts.GetUser(get_user(user))
        await installation.admin.accounts.UpdateAccessProfile(set_grants(profile_id))
        await refused(client.accounts.GetUser(get_user(user)), NotFound, Reason.USER_NOT_FOUND)
        await installation.admin.accounts.UpdateAccessProfile(set_grants(profile_id, grant("USER_MANAGEMENT")))
        await client.accounts.GetUser(get_user(user))
        await installation.admin.accounts.UpdateUser(assign(caller))
        await refused(client.accounts.GetUser(get_user(user)), NotFound, Reason.USER_NOT_FOUND)


Credentials = Callable[[HandclaspClient, str], Awaitable[object]]

TO_AN_ADMINISTRATOR: dict[str, Credentials] = {
    "set password": lambda client, user: client.accounts.SetPassword(set_password(user, PASSWORD)),
    "issue": lambda client, user: client.certificates.IssueCertificate(issue_with_key(user)),
    "token": lambda client, user: client.certificates.CreateEnrollmentToken(token_for(user)),
    "enable": lambda client, user: client.accounts.EnableUser(enable(user)),
    "assign": lambda client, user: client.accounts.UpdateUser(assign(user, "regular-user")),
    "assign nothing": lambda client, user: client.accounts.UpdateUser(assign(user)),
}


class TestProtectedAdministrators:
    @pytest.mark.parametrize("permission", ADMINISTRATIVE)
    async def test_nobody_touches_one_who_holds_what_they_lack(
        self, installation: Installation, permission: str
    ) -> None:
        target = await installation.new_user("regular-user", grants={permission: "*"})
        lacking = {name: "*" for name in ADMINISTRATIVE if name not in {permission, "USER_MANAGEMENT"}}
        caller = await installation.new_user(grants={**lacking, "USER_MANAGEMENT": "users/*"}, password=PASSWORD)
        before = await installation.admin.accounts.GetUser(get_user(target))
        # By a password, too, where it matters most.
        for way in WAYS if permission == "ACCESS_CONTROL" else WAYS[1:]:
            async with acting_as(installation, caller, way) as client:
                for name, call in TO_AN_ADMINISTRATOR.items():
                    assert (name, await outcome(call(client, target))) == (name, "ADMINISTRATOR_PROTECTED")
        assert await installation.admin.accounts.GetUser(get_user(target)) == before
        assert await certificates_of(installation, target) == []

    @pytest.mark.parametrize("permission", ADMINISTRATIVE)
    async def test_who_holds_the_same_may(self, installation: Installation, permission: str) -> None:
        target = await installation.new_user(grants={permission: "users/some-*"})
        caller = await installation.new_user(grants={"USER_MANAGEMENT": "*", permission: "*"})
        async with acting_as(installation, caller, "certificate") as client:
            for name, call in TO_AN_ADMINISTRATOR.items():
                assert (name, await outcome(call(client, target))) == (name, "OK")

    @pytest.mark.parametrize("permission", OTHERS)
    async def test_other_permissions_protect_nobody(self, installation: Installation, permission: str) -> None:
        target = await installation.new_user(grants={permission: "*"})
        caller = await installation.new_user(grants={"USER_MANAGEMENT": "*"})
        async with acting_as(installation, caller, "certificate") as client:
            for name, call in TO_AN_ADMINISTRATOR.items():
                assert (name, await outcome(call(client, target))) == (name, "OK")

    async def test_uploading_counts_too(self, installation: Installation) -> None:
        outside = OutsideCA("Partner CA")
        await installation.admin.certificates.AddTrustAnchor(pb.AddTrustAnchorRequest(pem=outside.pem))
        caller = await installation.new_user(grants={"USER_MANAGEMENT": "*"})
        administrator = await installation.new_user("relying-party")
        regular = await installation.new_user("regular-user")
        async with acting_as(installation, caller, "certificate") as client:
            leaf = outside.issue("somebody").pem

            def upload(user: str) -> Awaitable[object]:
                return client.certificates.UploadCertificate(
                    pb.UploadCertificateRequest(user=f"users/{user}", pem=leaf)
                )

            await refused(upload(administrator), PermissionDenied, Reason.ADMINISTRATOR_PROTECTED)
            assert await certificates_of(installation, administrator) == []
            await upload(regular)

    @pytest.mark.parametrize("permission", ADMINISTRATIVE[1:])
    async def test_nobody_hands_out_what_they_lack(self, installation: Installation, permission: str) -> None:
        dangerous = await installation.new_profile({permission: "*"})
        harmless = await installation.new_profile({"EXECUTE_INTEGRATIONS": "*"})
        held = {name: "*" for name in ADMINISTRATIVE if name != permission}
        caller = await installation.new_user(grants=held)
        user = await installation.new_user("regular-user")
        async with acting_as(installation, caller, "certificate") as client:
            accounts = client.accounts
            for call in (
                accounts.UpdateUser(assign(user, dangerous)),
                accounts.UpdateUser(assign(user, "regular-user", dangerous)),
                accounts.UpdateUser(assign(user, "administrator")),
                accounts.UpdateUser(assign(caller, dangerous)),
                accounts.CreateUser(create_user(f"{user}-new", dangerous)),
                accounts.CreateUser(create_user(f"{user}-new", "administrator", password=PASSWORD)),
            ):
                await refused(call, PermissionDenied, Reason.ADMINISTRATOR_PROTECTED)
            await refused(accounts.GetUser(get_user(f"{user}-new")), NotFound, Reason.USER_NOT_FOUND)
            await accounts.UpdateUser(assign(user, harmless))
            assert (await accounts.GetUser(get_user(user))).access_profiles == [f"accessProfiles/{harmless}"]

    async def test_nobody_writes_what_they_lack_into_a_profile(self, installation: Installation) -> None:
        own = await installation.new_profile({"ACCESS_CONTROL": "*"})
        caller = await installation.new_user(own)
        async with acting_as(installation, caller, "certificate") as client:
            accounts = client.accounts
            escalations = [
                (grant("USER_MANAGEMENT"),),
                (grant("ACCESS_CONTROL"), grant("VIEW_AUDIT_LOG", "decisions/*")),
                (grant("EXECUTE_INTEGRATIONS"), grant("AUTHORIZE_PEERS", "integrations/echo")),
            ]
            for grants in escalations:
                await refused(
                    accounts.UpdateAccessProfile(set_grants(own, *grants)),
                    PermissionDenied,
                    Reason.ADMINISTRATOR_PROTECTED,
                )
                await refused(
                    accounts.CreateAccessProfile(create_profile(f"{own}-new", *grants)),
                    PermissionDenied,
                    Reason.ADMINISTRATOR_PROTECTED,
                )
            kept = await accounts.GetAccessProfile(accounts_pb.GetAccessProfileRequest(name=f"accessProfiles/{own}"))
            assert list(kept.grants) == [grant("ACCESS_CONTROL", "*")]
            # What is not administrative may be handed out by whoever edits profiles.
            await accounts.UpdateAccessProfile(set_grants(own, grant("ACCESS_CONTROL"), grant("EXECUTE_INTEGRATIONS")))

    async def test_a_narrower_grant_does_not_hand_out_a_wider_one(self, installation: Installation) -> None:
        caller = await installation.new_user(
            grants={"USER_MANAGEMENT": "users/narrow-*", "ACCESS_CONTROL": "accessProfiles/narrow-*"}
        )
        wide = await installation.new_profile({"USER_MANAGEMENT": "users/*"})
        same = await installation.new_profile({"USER_MANAGEMENT": "users/narrow-*"})
        inside = await installation.new_profile({"USER_MANAGEMENT": "users/narrow-a"})
        user = await installation.new_user(name="narrow-a")
        async with acting_as(installation, caller, "certificate") as client:
            accounts = client.accounts
            for call in (
                accounts.UpdateUser(assign(user, wide)),
                accounts.CreateAccessProfile(create_profile("narrow-p", grant("USER_MANAGEMENT", "users/narrow*"))),
                accounts.CreateAccessProfile(create_profile("narrow-p", grant("ACCESS_CONTROL"))),
            ):
                await refused(call, PermissionDenied, Reason.ADMINISTRATOR_PROTECTED)
            await accounts.UpdateUser(assign(user, same))
            await accounts.UpdateUser(assign(user, inside))
            await accounts.CreateAccessProfile(create_profile("narrow-p", grant("USER_MANAGEMENT", "users/narrow-b*")))
            await installation.admin.accounts.UpdateUser(assign(user, wide))
            await refused(
                accounts.SetPassword(set_password(user, PASSWORD)), PermissionDenied, Reason.ADMINISTRATOR_PROTECTED
            )

    async def test_taking_away_is_not_held_up(self, installation: Installation) -> None:
        """Whoever manages a user stops a stolen certificate or a rogue user at once, administrators included."""
        target = await installation.new_user("administrator")
        identity = await installation.issue(target)
        caller = await installation.new_user(grants={"USER_MANAGEMENT": "users/*"})
        async with acting_as(installation, caller, "certificate") as client:
            await client.certificates.HoldCertificate(pb.HoldCertificateRequest(name=identity.name))
            # There is no way back by the same hands.
            await refused(
                client.certificates.ReinstateCertificate(pb.ReinstateCertificateRequest(name=identity.name)),
                PermissionDenied,
                Reason.ADMINISTRATOR_PROTECTED,
            )
            await client.certificates.RevokeCertificate(pb.RevokeCertificateRequest(name=identity.name))
            await client.accounts.DisableUser(disable(target))
            await refused(client.accounts.EnableUser(enable(target)), PermissionDenied, Reason.ADMINISTRATOR_PROTECTED)
        decision = await installation.relying_party.certificates.CheckPermission(question(identity))
        assert reason_of(decision) == "REVOKED"

    async def test_what_they_hold_and_others_lack_may_be_taken_away(self, installation: Installation) -> None:
        """Editing a profile that hands out much, so that it hands out less, is no escalation."""
        profile_id = await installation.new_profile({"TRUST_MANAGEMENT": "*"})
        caller = await installation.new_user(grants={"ACCESS_CONTROL": "*"})
        async with acting_as(installation, caller, "certificate") as client:
            await client.accounts.UpdateAccessProfile(set_grants(profile_id, grant("TRUST_MANAGEMENT", "*")))
            changed = await client.accounts.UpdateAccessProfile(set_grants(profile_id))
        assert list(changed.grants) == []

    async def test_the_setting_turns_it_off(self, tmp_path: Path, database_url: str) -> None:
        async with running_installation(tmp_path, database_url, protect_administrators=False) as installation:
            caller = await installation.new_user(grants={"USER_MANAGEMENT": "*", "ACCESS_CONTROL": "accessProfiles/*"})
            target = await installation.new_user("administrator")
            async with acting_as(installation, caller, "certificate") as client:
                for name, call in TO_AN_ADMINISTRATOR.items():
                    assert (name, await outcome(call(client, target))) == (name, "OK")
                certificate = await issued(installation, target)
                await client.certificates.HoldCertificate(pb.HoldCertificateRequest(name=certificate))
                await client.certificates.ReinstateCertificate(pb.ReinstateCertificateRequest(name=certificate))
                await client.accounts.CreateAccessProfile(create_profile("wide", grant("TRUST_MANAGEMENT")))
                await client.accounts.UpdateUser(assign(caller, "administrator", "wide"))


class TestBesideACertificate:
    """Basic credentials beside a certificate must be right, and name the certificate's user."""

    async def test_those_of_another_user_are_refused(self, installation: Installation) -> None:
        user = await installation.new_user("administrator", password=PASSWORD)
        other = await installation.new_user("administrator", password=PASSWORD)
        identity = await installation.issue(user)
        async with installation.client(identity, user=other, password=PASSWORD) as client:
            await refused(client.accounts.GetUser(get_user(user)), Unauthenticated, Reason.CREDENTIALS_MISMATCH)
            await refused(
                client.certificates.GetTrustBundle(pb.GetTrustBundleRequest()),
                Unauthenticated,
                Reason.CREDENTIALS_MISMATCH,
            )

    async def test_the_same_rules_hold(self, installation: Installation) -> None:
        user = await installation.new_user("regular-user", password=PASSWORD)
        other = await installation.new_user()
        async with acting_as(installation, user, "both") as client:
            assert await what_works(client, other, await issued(installation, other)) == DOES_NOT
            assert await what_works(client, user, await issued(installation, user)) == MANAGES

    async def test_a_wrong_password_is_refused(self, installation: Installation) -> None:
        user = await installation.new_user("administrator", password=PASSWORD)
        identity = await installation.issue(user)
        async with installation.client(identity, user=user, password=PASSWORD + "x") as client:
            await refused(client.accounts.GetUser(get_user(user)), Unauthenticated, Reason.CREDENTIALS_INVALID)

    async def test_the_right_ones_do_not_help_a_revoked_certificate(self, installation: Installation) -> None:
        user = await installation.new_user("administrator", password=PASSWORD)
        identity = await installation.issue(user)
        async with installation.client(identity, user=user, password=PASSWORD) as client:
            await client.accounts.GetUser(get_user(user))
            await installation.admin.certificates.RevokeCertificate(pb.RevokeCertificateRequest(name=identity.name))
            await refused(client.accounts.GetUser(get_user(user)), Unauthenticated, Reason.CERTIFICATE_NOT_ACCEPTED)


class TestCheckPermission:
    async def test_needs_mutual_tls(self, installation: Installation) -> None:
        identity = await installation.issue(await installation.new_user("regular-user"))
        relying_party = await installation.new_user("relying-party", password=PASSWORD)
        batch = pb.BatchCheckPermissionsRequest(
            peer_certificate=identity.der, permission=question(identity).permission, resources=["integrations/echo"]
        )
        async with installation.client(user=relying_party, password=PASSWORD) as client:
            for call in (
                client.certificates.CheckPermission(question(identity)),
                client.certificates.BatchCheckPermissions(batch),
            ):
                await refused(call, PermissionDenied, Reason.MUTUAL_TLS_REQUIRED)

    async def test_needs_authorize_peers_on_the_resource(self, installation: Installation) -> None:
        identity = await installation.issue(await installation.new_user("regular-user"))
        asking = await installation.new_user(grants={"AUTHORIZE_PEERS": "integrations/orders.*"})
        async with acting_as(installation, asking, "certificate") as client:
            ask = client.certificates.CheckPermission
            assert (await ask(question(identity, "integrations/orders.summarize"))).allowed
            for resource in ("integrations/echo", "integrations/orders", "users/alice"):
                await refused(ask(question(identity, resource)), PermissionDenied, Reason.ACCESS_DENIED)
            batch = pb.BatchCheckPermissionsRequest(
                peer_certificate=identity.der,
                permission=question(identity).permission,
                resources=["integrations/orders.summarize", "integrations/echo"],
            )
            await refused(client.certificates.BatchCheckPermissions(batch), PermissionDenied, Reason.ACCESS_DENIED)

    async def test_no_other_permission_will_do(self, installation: Installation) -> None:
        identity = await installation.issue(await installation.new_user("regular-user"))
        everything_else = {name: "*" for name in (*ADMINISTRATIVE, *OTHERS) if name != "AUTHORIZE_PEERS"}
        asking = await installation.new_user(grants=everything_else)
        async with acting_as(installation, asking, "certificate") as client:
            await refused(
                client.certificates.CheckPermission(question(identity)), PermissionDenied, Reason.ACCESS_DENIED
            )

    async def test_credentials_of_the_peer(self, installation: Installation) -> None:
        user = await installation.new_user("regular-user", password=PASSWORD)
        other = await installation.new_user("regular-user", password=PASSWORD)
        identity = await installation.issue(user)
        ask = installation.relying_party.certificates.CheckPermission
        answers = {
            credentials: reason_of(await ask(question(identity, credentials=credentials)))
            for credentials in (None, (user, PASSWORD), (user, "wrong"), (other, PASSWORD), ("", ""), (user, ""))
        }
        assert answers == {
            None: "ALLOWED",
            (user, PASSWORD): "ALLOWED",
            (user, "wrong"): "CREDENTIALS_INVALID",
            (other, PASSWORD): "CREDENTIALS_MISMATCH",
            ("", ""): "CREDENTIALS_MISMATCH",
            (user, ""): "CREDENTIALS_INVALID",
        }

    async def test_an_answer_says_who_what_and_until_when(self, installation: Installation) -> None:
        profile_id = await installation.new_profile({"EXECUTE_INTEGRATIONS": "integrations/ech*"})
        user = await installation.new_user(profile_id)
        identity = await installation.issue(user)
        decision = await installation.relying_party.certificates.CheckPermission(question(identity))
        assert decision.allowed
        assert decision.user == f"users/{user}"
        assert decision.certificate == identity.name
        assert decision.resource == "integrations/echo"
        assert f"accessProfiles/{profile_id}" in decision.rule
        assert "integrations/ech*" in decision.rule
        assert decision.expire_time.ToSeconds() == int(identity.leaf.not_valid_after_utc.timestamp())

        denied = await installation.relying_party.certificates.CheckPermission(question(identity, "integrations/ec"))
        assert not denied.allowed
        assert reason_of(denied) == "RESOURCE_NOT_GRANTED"
        assert not denied.HasField("expire_time")

    async def test_a_batch_is_answered_in_order(self, installation: Installation) -> None:
        user = await installation.new_user(grants={"EXECUTE_INTEGRATIONS": "integrations/a*"})
        identity = await installation.issue(user)
        resources = [f"integrations/{letter}{number}" for number in range(50) for letter in "ab"]
        request = pb.BatchCheckPermissionsRequest(
            peer_certificate=identity.der, permission=question(identity).permission, resources=resources
        )
        response = await installation.relying_party.certificates.BatchCheckPermissions(request)
        assert [decision.resource for decision in response.decisions] == resources
        assert [decision.allowed for decision in response.decisions] == [True, False] * 50
        assert len({decision.decide_time.ToNanoseconds() for decision in response.decisions}) == 1
