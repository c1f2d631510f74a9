"""Server names that another user's certificate has: who may give them, whichever way leads to a certificate."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from google.protobuf.duration_pb2 import Duration

from handclasp.certificates.v1 import certificate_pb2
from handclasp.certificates.v1 import certificate_service_pb2 as pb
from handclasp.client.client import HandclaspClient
from handclasp.client.csr import make_key_and_request
from handclasp.errors import HandclaspError, PermissionDenied, Unauthenticated
from tests.rpc.account_calls import create_profile, grant
from tests.rpc.certificate_harness import at_once, beside, counts, pem, refusal, signing_request
from tests.support.installation import Identity, Installation, running_installation

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Lead:
    """Who manages `{id}-*` and may have relying parties for some integrations, and such a relying party."""

    def __init__(self, user_id: str, client: HandclaspClient) -> None:
        self.user_id = user_id
        self.server = f"{user_id}-server"
        self.client = client

    async def issue(self, *names: str, **fields: object) -> certificate_pb2.Certificate:
        request = pb.IssueCertificateRequest(user=f"users/{self.server}", csr_pem=pem(signing_request()), **fields)  # type: ignore[arg-type]
        request.server_names.extend(names)
        return (await self.client.certificates.IssueCertificate(request)).certificate

    async def token(self, *names: str) -> str:
        request = pb.CreateEnrollmentTokenRequest(user=f"users/{self.server}", server_names=names)
        return (await self.client.certificates.CreateEnrollmentToken(request)).token


@asynccontextmanager
async def new_lead(
    installation: Installation, user_id: str, more: Sequence[tuple[str, str]] = ()
) -> AsyncIterator[Lead]:
    """
    Args:
        more: grants beside those.
    """
    own = [("USER_MANAGEMENT", f"users/{user_id}-*"), ("AUTHORIZE_PEERS", f"integrations/{user_id}.*")]
    profile = create_profile(user_id, *(grant(permission, pattern) for permission, pattern in [*own, *more]))
    await installation.admin.accounts.CreateAccessProfile(profile)
    await installation.new_user(user_id, name=user_id)
    await installation.new_user(name=f"{user_id}-server", grants={"AUTHORIZE_PEERS": f"integrations/{user_id}.*"})
    async with installation.client(await installation.issue(user_id)) as client:
        yield Lead(user_id, client)


async def honest(installation: Installation, *names: str, **fields: object) -> tuple[str, Identity]:
    """Another relying party with a certificate that has those names."""
    user_id = await installation.new_user("relying-party")
    return user_id, await installation.issue(user_id, server_names=names, **fields)


async def enroll(installation: Installation, token: str) -> certificate_pb2.Certificate:
    async with installation.client() as nobody:
        return await nobody.certificates.Enroll(pb.EnrollRequest(token=token, csr_pem=pem(signing_request())))


async def renew(client: HandclaspClient, identity: Identity) -> None:
    request = pb.RenewCertificateRequest(name=identity.name, csr_pem=pem(signing_request()))
    await client.certificates.RenewCertificate(request)


@pytest.mark.parametrize(
    ("there", "wanted"),
    [
        ("executions.example.org", "executions.example.org"),
        ("Executions2.example.org", "eXecutions2.Example.org"),
        ("192.0.2.1", "192.0.2.1"),
        ("192.0.2.2", "::ffff:192.0.2.2"),
        ("2001:db8::1", "2001:0DB8:0:0::0001"),
    ],
)
async def test_a_name_that_is_in_force_elsewhere_is_not_given(
    installation: Installation, there: str, wanted: str
) -> None:
    await honest(installation, "first.example.org", there)
    async with new_lead(installation, f"lead-{abs(hash(wanted)) % 10**6}") as lead:
        async with beside(installation) as database:
            before = await counts(database)
            for call in (lead.issue(wanted), lead.issue("free.example.org", wanted), lead.token(wanted)):
                error = await refusal(call, PermissionDenied, "ACCESS_DENIED")
                assert error.metadata["decision"]
            assert await counts(database) == before
        await lead.issue(f"{lead.user_id}.example.org")


async def test_it_is_free_once_nobody_has_it(installation: Installation) -> None:
    async with new_lead(installation, "patient") as lead:
        _, revoked = await honest(installation, "revoked.example.org")
        _, on_hold = await honest(installation, "held.example.org")
        await honest(installation, "expiring.example.org", lifetime=Duration(seconds=600))
        await installation.admin.certificates.RevokeCertificate(pb.RevokeCertificateRequest(name=revoked.name))
        await installation.admin.certificates.HoldCertificate(pb.HoldCertificateRequest(name=on_hold.name))
        await lead.issue("revoked.example.org")
        # It can be reinstated.
        await refusal(lead.issue("held.example.org"), PermissionDenied, "ACCESS_DENIED")
        await refusal(lead.issue("expiring.example.org"), PermissionDenied, "ACCESS_DENIED")
        with installation.clock.ahead(timedelta(minutes=11)):
            await lead.issue("expiring.example.org")
        # One's own user's names are no matter.
        await lead.issue("revoked.example.org")


@pytest.mark.parametrize(
    ("more", "may"),
    [
        ([("USER_MANAGEMENT", "serverNames/shared.example.org")], True),
        ([("USER_MANAGEMENT", "serverNames/shared.*")], True),
        ([("USER_MANAGEMENT", "serverNames/other.example.org")], False),
        ([("USER_MANAGEMENT", "*")], False),
        ([("USER_MANAGEMENT", "server*")], False),
        ([("TRUST_MANAGEMENT", "serverNames/*"), ("AUTHORIZE_PEERS", "serverNames/*")], False),
        ([("USER_MANAGEMENT", "*"), ("AUTHORIZE_PEERS", "*"), ("ACCESS_CONTROL", "*")], False),
    ],
)
async def test_a_grant_on_server_names_gives_it(
    installation: Installation, more: list[tuple[str, str]], may: bool, request: pytest.FixtureRequest
) -> None:
    await honest(installation, "shared.example.org")
    lead_id = f"sharing-{abs(hash(request.node.name)) % 10**8}"
    async with new_lead(installation, lead_id, more) as lead:
        if may:
            await lead.issue("shared.example.org")
            await enroll(installation, await lead.token("shared.example.org"))
        else:
            await refusal(lead.issue("shared.example.org"), PermissionDenied, "ACCESS_DENIED")


async def test_nobody_makes_themselves_one_who_may(installation: Installation) -> None:
    """By a grant on everything, of which that on server names would be a part."""
    await honest(installation, "climbing.example.org")
    wide = [("USER_MANAGEMENT", "*"), ("ACCESS_CONTROL", "*")]
    async with new_lead(installation, "climber", wide) as lead:
        profile = create_profile("climbed", grant("USER_MANAGEMENT", "serverNames/*"))
        await refusal(lead.client.accounts.CreateAccessProfile(profile), PermissionDenied, "ADMINISTRATOR_PROTECTED")


async def test_whoever_holds_every_administrative_permission_may(installation: Installation) -> None:
    await honest(installation, "moved.example.org")
    _, identity = await honest(installation, "moved.example.org")
    # What was shared on purpose is renewed.
    async with installation.client(identity) as client:
        await renew(client, identity)


async def test_a_token_from_before_the_name_was_taken_gives_nothing(installation: Installation) -> None:
    async with new_lead(installation, "early") as lead:
        token = await lead.token("early.example.org")
        await honest(installation, "early.example.org")
        await refusal(enroll(installation, token), Unauthenticated, "ENROLLMENT_TOKEN_INVALID")


async def test_a_certificate_from_before_the_name_was_taken_is_not_renewed(installation: Installation) -> None:
    async with new_lead(installation, "first") as lead:
        made = make_key_and_request(lead.server)
        issued = await lead.client.certificates.IssueCertificate(
            pb.IssueCertificateRequest(
                user=f"users/{lead.server}", csr_pem=made.csr_pem.decode(), server_names=["first-come.example.org"]
            )
        )
        identity = Identity(issued.certificate.name, issued.certificate.pem.encode(), made.key_pem)
        async with installation.client(identity) as client:
            await renew(client, identity)
            await honest(installation, "first-come.example.org")
            await refusal(renew(client, identity), PermissionDenied, "ACCESS_DENIED")


async def test_of_two_at_once_one_gets_it(installation: Installation) -> None:
    async with new_lead(installation, "one") as one, new_lead(installation, "other") as other:
        for number in range(5):
            name = f"raced-{number}.example.org"
            answers = await at_once(one.issue(name), other.issue(name))
            assert sum(isinstance(answer, HandclaspError) for answer in answers) == 1, answers


async def test_a_service_says_at_its_start_who_could_pass_for_it(tmp_path: Path, database_url: str) -> None:
    async with running_installation(tmp_path, database_url) as installation, new_lead(installation, "sly") as lead:
        sly = await lead.issue("ca.example.org")
        assert "own_server_name_elsewhere" not in installation.log.read_text()
    names = ("localhost", "CA.example.org")
    async with running_installation(tmp_path, database_url, server_names=names) as installation:
        said = [line for line in installation.log.read_text().splitlines() if "own_server_name_elsewhere" in line]
        warned = [line for line in said if "warning" in line]
        assert ["ca.example.org" in line and sly.name in line for line in warned] == [True], said
