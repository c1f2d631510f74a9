"""Enrollment tokens: one certificate each, for whoever brings one, and for nobody whom its maker could not issue to."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf.duration_pb2 import Duration

from handclasp.authorization.v1.authorization_service_pb2 import ExplainDecisionRequest
from handclasp.authorization.v1.decision_pb2 import Decision, DecisionReason
from handclasp.certificate_service.storage.enrollment_tokens import forget_tokens
from handclasp.certificates.v1 import certificate_pb2
from handclasp.certificates.v1 import certificate_service_pb2 as pb
from handclasp.certificates.v1.enrollment_token_pb2 import EnrollmentToken
from handclasp.client.client import HandclaspClient
from handclasp.client.csr import make_key_and_request
from handclasp.errors import (
    FailedPrecondition,
    HandclaspError,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
)
from tests.rpc.account_calls import assign, disable, enable, token_for
from tests.rpc.certificate_harness import (
    at_once,
    beside,
    counts,
    der,
    everything_stored,
    pem,
    refusal,
    signing_request,
    why,
)
from tests.support.installation import Identity, Installation, running_installation, share_keys
from tests.support.postgres import PostgresServer

pytestmark = pytest.mark.asyncio(loop_scope="module")

A_TOKEN = "hce_" + "xY" * 16


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def installation(
    module_database_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Installation]:
    """One that does not slow down whoever brings wrong tokens, as many tests here do."""
    patient = {"throttle": {"free_attempts": 1000}}
    async with running_installation(
        tmp_path_factory.mktemp("enrollment"),
        module_database_url,
        server_names=("localhost", "ca.example.org"),
        **patient,
    ) as running:
        yield running


async def token_of(
    installation: Installation, user_id: str, *names: str, client: HandclaspClient | None = None, **fields: Any
) -> EnrollmentToken:
    """A token for a user, made by the administrator if no client is given."""
    request = pb.CreateEnrollmentTokenRequest(user=f"users/{user_id}", server_names=names, **fields)
    return await (client or installation.admin).certificates.CreateEnrollmentToken(request)


async def enroll(
    installation: Installation, token: EnrollmentToken | str, csr: x509.CertificateSigningRequest | None = None
) -> certificate_pb2.Certificate:
    """What somebody without any credentials gets for it."""
    text = token if isinstance(token, str) else token.token
    async with installation.client() as nobody:
        return await nobody.certificates.Enroll(pb.EnrollRequest(token=text, csr_pem=pem(csr or signing_request())))


def minutes(number: int) -> Duration:
    return Duration(seconds=60 * number)


async def test_a_token_gives_a_certificate_that_is_good_at_once(installation: Installation) -> None:
    alice = await installation.new_user("regular-user")
    made = await token_of(installation, alice)
    assert re.fullmatch(r"hce_[A-Za-z0-9_-]{32}", made.token)
    assert re.fullmatch(r"enrollmentTokens/[0-9a-v]{26}", made.name)
    assert (made.user, made.created_by) == (f"users/{alice}", "users/admin")
    assert made.expire_time.ToDatetime() - made.create_time.ToDatetime() == timedelta(hours=1)
    key = make_key_and_request()
    async with installation.client() as nobody:
        certificate = await nobody.certificates.Enroll(pb.EnrollRequest(token=made.token, csr_pem=key.csr_pem.decode()))
    assert (certificate.user, certificate.created_by) == (f"users/{alice}", "users/admin")
    assert certificate.origin == certificate_pb2.Certificate.ORIGIN_SIGNED
    identity = Identity(certificate.name, certificate.pem.encode(), key.key_pem)
    assert await why(installation, identity.der) == "ALLOWED"
    async with installation.client(identity) as client:
        own = await client.certificates.GetCertificate(pb.GetCertificateRequest(name=certificate.name))
    assert own == certificate


async def test_a_token_is_stored_nowhere(installation: Installation) -> None:
    made = await token_of(installation, await installation.new_user())
    await enroll(installation, made)
    async with beside(installation) as database:
        stored = await everything_stored(database)
    assert made.token.encode() not in stored
    assert made.token.removeprefix("hce_").encode() not in stored
    assert made.token not in installation.log.read_text()
    assert made.name in installation.log.read_text()


async def test_it_is_good_once(installation: Installation) -> None:
    alice = await installation.new_user()
    made = await token_of(installation, alice)
    await enroll(installation, made)
    async with beside(installation) as database:
        before = await counts(database)
        error = await refusal(enroll(installation, made), Unauthenticated, "ENROLLMENT_TOKEN_USED")
        assert await counts(database) == before
    assert error.metadata["decision"]


async def test_the_same_key_gets_the_same_certificate_again(installation: Installation) -> None:
    """Whoever did not get the answer asks again, perhaps with a request that was made anew."""
    made = await token_of(installation, await installation.new_user())
    key = ec.generate_private_key(ec.SECP256R1())
    first = await enroll(installation, made, signing_request(key))
    again = await enroll(installation, made, signing_request(key, subject="somebody else"))
    assert again == first
    async with installation.client() as nobody:
        as_der = await nobody.certificates.Enroll(pb.EnrollRequest(token=made.token, csr_der=der(signing_request(key))))
    assert as_der == first
    with installation.clock.ahead(timedelta(minutes=61)):
        await refusal(enroll(installation, made, signing_request(key)), Unauthenticated, "ENROLLMENT_TOKEN_EXPIRED")


async def test_a_token_expires(installation: Installation) -> None:
    alice = await installation.new_user()
    made = await token_of(installation, alice, lifetime=minutes(2))
    with installation.clock.ahead(timedelta(minutes=2)):
        error = await refusal(enroll(installation, made), Unauthenticated, "ENROLLMENT_TOKEN_EXPIRED")
        assert "expired at" in error.message
        with_default = await token_of(installation, alice)
    with installation.clock.ahead(timedelta(minutes=59)):
        await enroll(installation, with_default)


@pytest.mark.parametrize("lifetime", [Duration(), Duration(seconds=59), Duration(seconds=86401), Duration(seconds=-60)])
async def test_lifetimes_that_are_not_accepted(installation: Installation, lifetime: Duration) -> None:
    alice = await installation.new_user()
    error = await refusal(token_of(installation, alice, lifetime=lifetime), InvalidArgument, "LIFETIME_NOT_ACCEPTED")
    assert error.message == "lifetime: must be between 1m and 1d"
    await token_of(installation, alice, lifetime=minutes(24 * 60))


@pytest.mark.parametrize("token", ["", "hce_", A_TOKEN, A_TOKEN[:-1], A_TOKEN + "=", "\0", "x" * 70_000, "päss", "*"])
async def test_what_is_no_token(installation: Installation, token: str) -> None:
    error = await refusal(enroll(installation, token), Unauthenticated, "ENROLLMENT_TOKEN_INVALID")
    if len(token) > 3:
        assert token not in error.message


async def test_the_request_is_looked_at_only_with_a_token(installation: Installation) -> None:
    made = await token_of(installation, await installation.new_user())
    async with installation.client() as nobody:
        enrolling = nobody.certificates.Enroll
        unreadable = pb.EnrollRequest(token=A_TOKEN, csr_der=b"-")
        await refusal(enrolling(unreadable), Unauthenticated, "ENROLLMENT_TOKEN_INVALID")
        unreadable.token = made.token
        await refusal(enrolling(unreadable), InvalidArgument, "CSR_INVALID")
        await refusal(enrolling(pb.EnrollRequest(token=made.token)), InvalidArgument, "FIELD_INVALID")
        small = signing_request(ec.generate_private_key(ec.SECP521R1()))
        await refusal(
            enrolling(pb.EnrollRequest(token=made.token, csr_der=der(small))), InvalidArgument, "KEY_NOT_ACCEPTED"
        )
    # None of that has used it.
    await enroll(installation, made)


async def test_a_disabled_user_gets_nothing(installation: Installation) -> None:
    alice = await installation.new_user()
    made = await token_of(installation, alice)
    await installation.admin.accounts.DisableUser(disable(alice))
    await refusal(enroll(installation, made), FailedPrecondition, "USER_IS_DISABLED")
    await refusal(token_of(installation, alice), FailedPrecondition, "USER_IS_DISABLED")
    await installation.admin.accounts.EnableUser(enable(alice))
    await enroll(installation, made)


async def test_revoking_all_of_a_users_certificates_voids_tokens(installation: Installation) -> None:
    alice, bob = await installation.new_user(), await installation.new_user()
    unused, used, others = [await token_of(installation, user) for user in (alice, alice, bob)]
    key = ec.generate_private_key(ec.SECP256R1())
    given = await enroll(installation, used, signing_request(key))
    request = pb.RevokeUserCertificatesRequest(user=f"users/{alice}")
    assert (await installation.admin.certificates.RevokeUserCertificates(request)).revoked_count == 1
    await refusal(enroll(installation, unused), Unauthenticated, "ENROLLMENT_TOKEN_INVALID")
    # What the other one gave is told again, and is good for nothing.
    again = await enroll(installation, used, signing_request(key))
    assert (again.name, again.state) == (given.name, certificate_pb2.Certificate.STATE_REVOKED)
    await enroll(installation, others)


async def good_ones(client: HandclaspClient, user_id: str = "", **fields: Any) -> list[EnrollmentToken]:
    """The tokens that are listed, of one user or of all."""
    request = pb.ListEnrollmentTokensRequest(user=f"users/{user_id}" if user_id else "", page_size=1000, **fields)
    return list((await client.certificates.ListEnrollmentTokens(request)).enrollment_tokens)


def revoke_token(client: HandclaspClient, token: EnrollmentToken | str) -> Awaitable[Any]:
    name = token if isinstance(token, str) else token.name
    return client.certificates.RevokeEnrollmentToken(pb.RevokeEnrollmentTokenRequest(name=name))


async def test_those_that_are_good_are_listed_without_the_tokens(installation: Installation) -> None:
    server, other = await installation.new_user("relying-party"), await installation.new_user()
    made = [
        await token_of(installation, server, "orders.example.org", lifetime=minutes(2)),
        await token_of(installation, server),
        await token_of(installation, server),
    ]
    await token_of(installation, other)
    await enroll(installation, made[1])
    expected = [copy_without_token(made[0]), copy_without_token(made[2])]
    assert await good_ones(installation.admin, server) == expected
    assert [token for token in await good_ones(installation.admin) if token.user == f"users/{server}"] == expected
    with installation.clock.ahead(timedelta(minutes=2)):
        assert await good_ones(installation.admin, server) == expected[1:]
    assert await good_ones(installation.admin, "nobody") == []
    await refusal(
        installation.admin.certificates.ListEnrollmentTokens(pb.ListEnrollmentTokensRequest(user="alice")),
        InvalidArgument,
        "FIELD_INVALID",
    )


def copy_without_token(token: EnrollmentToken) -> EnrollmentToken:
    copied = EnrollmentToken()
    copied.CopyFrom(token)
    copied.ClearField("token")
    return copied


async def test_one_that_is_taken_back_is_good_for_nothing(installation: Installation) -> None:
    alice = await installation.new_user()
    made, other = [await token_of(installation, alice) for _ in range(2)]
    await revoke_token(installation.admin, made)
    await refusal(enroll(installation, made), Unauthenticated, "ENROLLMENT_TOKEN_INVALID")
    assert await good_ones(installation.admin, alice) == [copy_without_token(other)]
    await refusal(revoke_token(installation.admin, made), NotFound, "ENROLLMENT_TOKEN_NOT_FOUND")
    await enroll(installation, other)
    assert "enrollment_token_revoked" in installation.log.read_text()


@pytest.mark.parametrize(
    ("name", "error", "reason"),
    [
        ("", InvalidArgument, "FIELD_INVALID"),
        (A_TOKEN, InvalidArgument, "FIELD_INVALID"),
        ("certificates/06h0000000000000000000000", InvalidArgument, "FIELD_INVALID"),
        (f"enrollmentTokens/{A_TOKEN}", NotFound, "ENROLLMENT_TOKEN_NOT_FOUND"),
        ("enrollmentTokens/06h00000000000000000000000", NotFound, "ENROLLMENT_TOKEN_NOT_FOUND"),
    ],
)
async def test_what_is_no_name_of_a_token(
    installation: Installation, name: str, error: type[HandclaspError], reason: str
) -> None:
    refused = await refusal(revoke_token(installation.admin, name), error, reason)
    assert A_TOKEN not in refused.message, "whoever takes the token for its name has it in no log"


async def test_one_that_was_used_is_not_taken_back(installation: Installation) -> None:
    """Whoever wants to is told what it gave: that is to be revoked."""
    made = await token_of(installation, await installation.new_user())
    given = await enroll(installation, made)
    error = await refusal(revoke_token(installation.admin, made), FailedPrecondition, "ENROLLMENT_TOKEN_SPENT")
    assert given.name in error.message


async def test_it_is_taken_back_or_used(installation: Installation) -> None:
    alice = await installation.new_user()
    for _ in range(5):
        made = await token_of(installation, alice)
        used, revoked = await at_once(enroll(installation, made), revoke_token(installation.admin, made))
        if isinstance(used, HandclaspError):
            assert used.reason == "ENROLLMENT_TOKEN_INVALID"
            assert not isinstance(revoked, HandclaspError)
        else:
            assert isinstance(revoked, HandclaspError)
            assert revoked.reason == "ENROLLMENT_TOKEN_SPENT"


@pytest.mark.parametrize(
    ("grants", "sees"),
    [
        ({}, []),
        ({"MANAGE_PERSONAL_SETUP": "*"}, ["own"]),
        ({"USER_MANAGEMENT": "users/seen-*"}, ["seen"]),
        ({"USER_MANAGEMENT": "*"}, ["own", "seen", "hidden"]),
        ({"ACCESS_CONTROL": "*", "TRUST_MANAGEMENT": "*", "VIEW_AUDIT_LOG": "*"}, []),
    ],
)
async def test_others_tokens_do_not_exist(installation: Installation, grants: dict[str, str], sees: list[str]) -> None:
    caller = await installation.new_user(grants=grants)
    users = {"own": caller}
    for name in ("seen", "hidden"):
        users[name] = await installation.new_user(name=f"{name}-{caller}")
    made = {name: await token_of(installation, user) for name, user in users.items()}
    async with installation.client(await installation.issue(caller)) as client:
        listed = {token.name for token in await good_ones(client)}
        for name, token in made.items():
            assert (token.name in listed) == (name in sees)
            assert await good_ones(client, users[name]) == ([copy_without_token(token)] if name in sees else [])
            if name in sees:
                await revoke_token(client, token)
            else:
                hidden = await refusal(revoke_token(client, token), NotFound, "ENROLLMENT_TOKEN_NOT_FOUND")
                missing = token.name[:-4] + "0000"
                error = await refusal(revoke_token(client, missing), NotFound, "ENROLLMENT_TOKEN_NOT_FOUND")
                assert hidden.message.replace(token.name, missing) == error.message
                assert not hidden.metadata
    left = {token.user for token in await good_ones(installation.admin)}
    assert {name for name, user in users.items() if f"users/{user}" not in left} == set(sees)


async def test_two_at_once_get_one_certificate(installation: Installation) -> None:
    alice = await installation.new_user()
    for _ in range(5):
        made = await token_of(installation, alice)
        answers = await at_once(*(enroll(installation, made) for _ in range(4)))
        refused = [answer for answer in answers if isinstance(answer, HandclaspError)]
        assert {error.reason for error in refused} == {"ENROLLMENT_TOKEN_USED"}
        assert len(refused) == 3, answers


async def test_one_key_at_once_gets_one_certificate(installation: Installation) -> None:
    made = await token_of(installation, await installation.new_user())
    key = ec.generate_private_key(ec.SECP256R1())
    answers = await asyncio.gather(*(enroll(installation, made, signing_request(key)) for _ in range(4)))
    assert len({answer.name for answer in answers}) == 1


async def test_nobody_makes_one_for_whom_they_could_not_issue_to(installation: Installation) -> None:
    """The rest is in test_who_may.py."""
    administrator = await installation.new_user("administrator")
    clerk = await installation.new_user(grants={"USER_MANAGEMENT": "*"})
    async with installation.client(await installation.issue(clerk)) as client:
        await refusal(
            client.certificates.CreateEnrollmentToken(token_for(administrator)),
            PermissionDenied,
            "ADMINISTRATOR_PROTECTED",
        )
        await refusal(client.certificates.CreateEnrollmentToken(token_for("nobody")), NotFound, "USER_NOT_FOUND")
        own = await client.certificates.CreateEnrollmentToken(token_for(clerk))
    given = await enroll(installation, own)
    assert given.created_with, "the certificate that the token was made with"


async def test_server_names_are_those_of_the_token(installation: Installation) -> None:
    server = await installation.new_user("relying-party")
    made = await token_of(installation, server, "orders.example.org", "192.0.2.7")
    assert list(made.server_names) == ["orders.example.org", "192.0.2.7"]
    leaf = x509.load_pem_x509_certificates((await enroll(installation, made)).pem.encode())[0]
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["orders.example.org"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["192.0.2.7"]


async def test_server_names_need_what_issuing_with_them_needs(installation: Installation) -> None:
    server = await installation.new_user("relying-party", "regular-user")
    async with installation.client(await installation.issue(server)) as client:
        await refusal(
            token_of(installation, server, "orders.example.org", client=client), PermissionDenied, "ACCESS_DENIED"
        )
    alice = await installation.new_user("regular-user")
    await refusal(token_of(installation, alice, "orders.example.org"), InvalidArgument, "FIELD_INVALID")
    await refusal(token_of(installation, server, "*.example.org"), InvalidArgument, "FIELD_INVALID")
    names = [f"host-{number}.example.org" for number in range(21)]
    await refusal(token_of(installation, server, *names), InvalidArgument, "FIELD_INVALID")
    clerk = await installation.new_user(grants={"USER_MANAGEMENT": "*", "AUTHORIZE_PEERS": "*"})
    async with installation.client(await installation.issue(clerk)) as client:
        await token_of(installation, server, "stock.example.org", client=client)
        await refusal(
            token_of(installation, server, "CA.example.org", client=client),
            PermissionDenied,
            "ADMINISTRATOR_PROTECTED",
        )


async def test_who_is_no_relying_party_any_more_gets_no_server_names(installation: Installation) -> None:
    server = await installation.new_user("relying-party")
    made = await token_of(installation, server, "orders.example.org")
    await installation.admin.accounts.UpdateUser(assign(server))
    await refusal(enroll(installation, made), InvalidArgument, "FIELD_INVALID")


async def test_refusals_can_be_explained(installation: Installation) -> None:
    alice = await installation.new_user()
    made = await token_of(installation, alice)
    await enroll(installation, made)
    unused = await token_of(installation, alice)
    used = await refusal(enroll(installation, made), Unauthenticated, "ENROLLMENT_TOKEN_USED")
    with installation.clock.ahead(timedelta(hours=2)):
        late = await refusal(enroll(installation, unused), Unauthenticated, "ENROLLMENT_TOKEN_EXPIRED")
    for error, token, fault in ((used, made, "was used at"), (late, unused, "expired at")):
        decision = await explained(installation, error)
        assert (decision.user, decision.permission) == (f"users/{alice}", 0)
        assert decision.resource.endswith("/Enroll")
        assert DecisionReason.Name(decision.reason) == f"DECISION_REASON_{error.reason}"
        assert f"{token.name} for users/{alice} {fault}" in decision.rule
    unknown = await refusal(enroll(installation, A_TOKEN), Unauthenticated, "ENROLLMENT_TOKEN_INVALID")
    decision = await explained(installation, unknown)
    assert DecisionReason.Name(decision.reason) == "DECISION_REASON_ENROLLMENT_TOKEN_INVALID"
    assert decision.user == ""


async def explained(installation: Installation, error: HandclaspError) -> Decision:
    request = ExplainDecisionRequest(name=error.metadata["decision"])
    return (await installation.admin.authorization.ExplainDecision(request)).decision


async def test_those_that_expired_long_ago_are_forgotten(installation: Installation) -> None:
    made = await token_of(installation, await installation.new_user())
    await enroll(installation, made)
    async with beside(installation) as database:
        await database.write(partial(forget_tokens, before=installation.clock() + timedelta(hours=2)))
    await refusal(enroll(installation, made), Unauthenticated, "ENROLLMENT_TOKEN_INVALID")


async def test_an_address_that_guesses_is_slowed_down(tmp_path: Path, database_url: str) -> None:
    async with running_installation(tmp_path, database_url) as installation:
        made = await token_of(installation, "admin")
        for _ in range(5):
            await refusal(enroll(installation, A_TOKEN), Unauthenticated, "ENROLLMENT_TOKEN_INVALID")
        error = await refusal(enroll(installation, made), ResourceExhausted, "CREDENTIALS_THROTTLED")
        assert error.retry_after is not None
        assert error.metadata["decision"]
        # Nobody who brings a password or a certificate notices.
        async with installation.client(user="admin", password=installation.admin_password) as client:
            await client.certificates.GetTrustBundle(pb.GetTrustBundleRequest())
        with installation.clock.ahead(timedelta(seconds=2)):
            await enroll(installation, made)


async def test_machines_that_enroll_at_once_from_one_address_do_not_slow_each_other_down(
    tmp_path: Path, database_url: str
) -> None:
    """Behind one router, or one proxy that passes TCP on: they bring the right tokens, and nobody guesses."""
    async with running_installation(tmp_path, database_url) as installation:
        made = [await token_of(installation, "admin") for _ in range(25)]
        answers = await at_once(*(enroll(installation, token) for token in made))
        assert not [answer for answer in answers if isinstance(answer, BaseException)]
        # Those that are wrong are counted all the same when they come at once.
        answers = await at_once(*(enroll(installation, f"hce_{number:032}") for number in range(25)))
        reasons = [answer.reason for answer in answers if isinstance(answer, HandclaspError)]
        assert reasons.count("ENROLLMENT_TOKEN_INVALID") <= 6
        assert reasons.count("CREDENTIALS_THROTTLED") >= 19


@asynccontextmanager
async def two_services(postgres: PostgresServer, folder: Path) -> AsyncIterator[tuple[Installation, Installation]]:
    """Two processes' worth of services on one PostgreSQL, with the same keys."""
    folders = [folder / name for name in ("one", "other")]
    for path in folders:
        path.mkdir()
    with postgres.database() as url:
        async with running_installation(folders[0], url) as first:
            share_keys(*(folder / "data" for folder in folders))
            async with running_installation(folders[1], url) as second:
                yield first, second


async def test_used_at_two_services_at_once_it_gives_one_certificate(postgres: PostgresServer, tmp_path: Path) -> None:
    async with two_services(postgres, tmp_path) as both:
        for _ in range(5):
            made = await token_of(both[0], "admin")
            answers = await at_once(*(enroll(each, made) for each in both))
            refused = [answer for answer in answers if isinstance(answer, HandclaspError)]
            assert [error.reason for error in refused] == ["ENROLLMENT_TOKEN_USED"], answers
        # Voiding and using at once: whichever comes first, no certificate of that user is good afterwards.
        for _ in range(5):
            alice = await both[0].new_user()
            made = await token_of(both[0], alice)
            request = pb.RevokeUserCertificatesRequest(user=f"users/{alice}")
            answers = await at_once(enroll(both[0], made), both[1].admin.certificates.RevokeUserCertificates(request))
            assert not isinstance(answers[1], BaseException), answers
            listed = await both[0].admin.certificates.ListCertificates(
                pb.ListCertificatesRequest(user=f"users/{alice}", states=[certificate_pb2.Certificate.STATE_ACTIVE])
            )
            assert not listed.certificates
