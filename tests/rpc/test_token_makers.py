"""An enrollment token gives what its maker could give at the moment it is used, and no more."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
import pytest_asyncio
from google.protobuf.duration_pb2 import Duration

from handclasp.authorization.v1.authorization_service_pb2 import ExplainDecisionRequest
from handclasp.certificates.v1 import certificate_pb2
from handclasp.certificates.v1 import certificate_service_pb2 as pb
from handclasp.client.client import HandclaspClient
from handclasp.errors import Unauthenticated
from tests.rpc.account_calls import PASSWORD, assign, disable, enable, grant, set_grants, set_password, token_for
from tests.rpc.certificate_harness import beside, counts, held, pem, refusal, signing_request, trusted_ca, upload
from tests.support.installation import Identity, Installation, running_installation

pytestmark = pytest.mark.asyncio(loop_scope="module")

ANOTHER_PASSWORD = "another " + PASSWORD


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def installation(
    module_database_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Installation]:
    """One that slows nobody down, as many wrong tokens come from one address here."""
    folder = tmp_path_factory.mktemp("makers")
    async with running_installation(folder, module_database_url, throttle={"free_attempts": 1000}) as running:
        yield running


class Lead:
    """A user who manages those named `{lead}-*`, by a certificate or by a password, and such a user."""

    def __init__(self, installation: Installation, user_id: str, profile_id: str, identity: Identity) -> None:
        self.installation = installation
        self.user_id = user_id
        self.profile_id = profile_id
        self.identity = identity
        self.member = f"{user_id}-member"

    @property
    def admin(self) -> HandclaspClient:
        return self.installation.admin

    async def token(self, *, by_password: bool = False, lifetime: Duration | None = None) -> str:
        """The text of a token for the member."""
        request = token_for(self.member)
        if lifetime is not None:
            request.lifetime.CopyFrom(lifetime)
        async with self._client(by_password) as client:
            return (await client.certificates.CreateEnrollmentToken(request)).token

    @asynccontextmanager
    async def _client(self, by_password: bool) -> AsyncIterator[HandclaspClient]:
        basic = {"user": self.user_id, "password": PASSWORD} if by_password else {}
        async with self.installation.client(None if by_password else self.identity, **basic) as client:
            yield client


async def new_lead(installation: Installation, name: str) -> Lead:
    user_id = await installation.new_user(name=name, password=PASSWORD)
    profile_id = await installation.new_profile({"USER_MANAGEMENT": f"users/{user_id}-*"})
    await installation.admin.accounts.UpdateUser(assign(user_id, profile_id))
    await installation.new_user("regular-user", name=f"{user_id}-member")
    return Lead(installation, user_id, profile_id, await installation.issue(user_id))


async def enroll(installation: Installation, token: str) -> certificate_pb2.Certificate:
    async with installation.client() as nobody:
        return await nobody.certificates.Enroll(pb.EnrollRequest(token=token, csr_pem=pem(signing_request())))


async def disabled(lead: Lead) -> None:
    await lead.admin.accounts.DisableUser(disable(lead.user_id))


async def certificate_revoked(lead: Lead) -> None:
    await lead.admin.certificates.RevokeCertificate(pb.RevokeCertificateRequest(name=lead.identity.name))


async def certificate_held(lead: Lead) -> None:
    await lead.admin.certificates.HoldCertificate(pb.HoldCertificateRequest(name=lead.identity.name))


async def all_revoked(lead: Lead) -> None:
    request = pb.RevokeUserCertificatesRequest(user=f"users/{lead.user_id}")
    await lead.admin.certificates.RevokeUserCertificates(request)


async def profile_narrowed(lead: Lead) -> None:
    other = grant("USER_MANAGEMENT", f"users/{lead.user_id}-other-*")
    await lead.admin.accounts.UpdateAccessProfile(set_grants(lead.profile_id, other))


async def profile_taken(lead: Lead) -> None:
    await lead.admin.accounts.UpdateUser(assign(lead.user_id, "regular-user"))


async def member_promoted(lead: Lead) -> None:
    await lead.admin.accounts.UpdateUser(assign(lead.member, "administrator"))


async def member_made_relying_party(lead: Lead) -> None:
    await lead.admin.accounts.UpdateUser(assign(lead.member, "relying-party"))


TAKINGS = [
    disabled,
    certificate_revoked,
    certificate_held,
    all_revoked,
    profile_narrowed,
    profile_taken,
    member_promoted,
    member_made_relying_party,
]


@pytest.mark.parametrize("taking", TAKINGS)
async def test_a_token_goes_with_what_its_maker_had(
    installation: Installation, taking: Callable[[Lead], Awaitable[None]]
) -> None:
    lead = await new_lead(installation, f"lead-{taking.__name__.replace('_', '-')}")
    token = await lead.token()
    await taking(lead)
    async with beside(installation) as database:
        before = await counts(database)
        error = await refusal(enroll(installation, token), Unauthenticated, "ENROLLMENT_TOKEN_INVALID")
        assert await counts(database) == before
    # Whoever brings it is told neither by whom it was made nor what became of them; the record says so.
    assert lead.user_id not in error.message.replace(lead.member, "")
    explain = ExplainDecisionRequest(name=error.metadata["decision"])
    decision = (await installation.admin.authorization.ExplainDecision(explain)).decision
    assert f"users/{lead.user_id}" in (decision.user, *decision.rule.replace(":", " ").split())


@pytest.mark.parametrize("taking", [disabled, profile_taken, member_promoted])
async def test_the_same_of_one_that_was_made_by_password(
    installation: Installation, taking: Callable[[Lead], Awaitable[None]]
) -> None:
    lead = await new_lead(installation, f"by-password-{taking.__name__.replace('_', '-')}")
    token = await lead.token(by_password=True)
    await taking(lead)
    await refusal(enroll(installation, token), Unauthenticated, "ENROLLMENT_TOKEN_INVALID")


@pytest.mark.parametrize("own", [True, False])
async def test_another_password_voids_what_was_made_by_password(installation: Installation, own: bool) -> None:
    lead = await new_lead(installation, f"set-{'own' if own else 'by-admin'}")
    by_password, by_certificate = await lead.token(by_password=True), await lead.token()
    installation.secrets.add_password(ANOTHER_PASSWORD, lead.user_id)
    async with installation.client(lead.identity) as client:
        if own:
            await client.accounts.SetPassword(set_password(lead.user_id, ANOTHER_PASSWORD, PASSWORD))
        else:
            await lead.admin.accounts.SetPassword(set_password(lead.user_id, ANOTHER_PASSWORD))
    await refusal(enroll(installation, by_password), Unauthenticated, "ENROLLMENT_TOKEN_INVALID")
    await enroll(installation, by_certificate)


async def test_it_goes_with_the_anchor_that_its_makers_certificate_was_of(installation: Installation) -> None:
    lead = await new_lead(installation, "outside")
    ca = await trusted_ca(installation, "Outside leads")
    leaf = ca.issue("outside")
    await upload(installation, lead.user_id, leaf)
    lead.identity = held(leaf)
    token, other = await lead.token(), await lead.token(by_password=True)
    listed = await lead.admin.certificates.ListTrustAnchors(pb.ListTrustAnchorsRequest(page_size=1000))
    anchor = next(anchor.name for anchor in listed.trust_anchors if "Outside leads" in anchor.subject)
    await lead.admin.certificates.RemoveTrustAnchor(pb.RemoveTrustAnchorRequest(name=anchor))
    await refusal(enroll(installation, token), Unauthenticated, "ENROLLMENT_TOKEN_INVALID")
    await enroll(installation, other)


async def test_what_comes_back_makes_it_good_again(installation: Installation) -> None:
    lead = await new_lead(installation, "back")
    token = await lead.token()
    await disabled(lead)
    await certificate_held(lead)
    await refusal(enroll(installation, token), Unauthenticated, "ENROLLMENT_TOKEN_INVALID")
    await lead.admin.accounts.EnableUser(enable(lead.user_id))
    await refusal(enroll(installation, token), Unauthenticated, "ENROLLMENT_TOKEN_INVALID")
    await lead.admin.certificates.ReinstateCertificate(pb.ReinstateCertificateRequest(name=lead.identity.name))
    await enroll(installation, token)


async def test_that_the_makers_certificate_expired_or_was_renewed_takes_nothing(installation: Installation) -> None:
    lead = await new_lead(installation, "renewed")
    lead.identity = await installation.issue(lead.user_id, lifetime=Duration(seconds=600))
    token = await lead.token(lifetime=Duration(seconds=3600))
    async with installation.client(lead.identity) as client:
        renew = pb.RenewCertificateRequest(name=lead.identity.name, csr_pem=pem(signing_request()))
        await client.certificates.RenewCertificate(renew)
    with installation.clock.ahead(timedelta(minutes=30)):
        assert (await enroll(installation, token)).created_with == lead.identity.name
        await certificate_revoked(lead)
    # Whoever lost it may say so afterwards, and that counts.
    lead.identity = await installation.issue(lead.user_id, lifetime=Duration(seconds=600))
    token = await lead.token(lifetime=Duration(seconds=3600))
    with installation.clock.ahead(timedelta(minutes=30)):
        await certificate_revoked(lead)
        await refusal(enroll(installation, token), Unauthenticated, "ENROLLMENT_TOKEN_INVALID")


async def test_what_it_gave_is_told_again_all_the_same(installation: Installation) -> None:
    """Whoever holds the key asks for what is theirs already."""
    lead = await new_lead(installation, "gave")
    token = await lead.token()
    request = pb.EnrollRequest(token=token, csr_pem=pem(signing_request()))
    async with installation.client() as nobody:
        first = await nobody.certificates.Enroll(request)
        await disabled(lead)
        assert await nobody.certificates.Enroll(request) == first


async def test_with_protection_off_a_promoted_user_gets_theirs(tmp_path: Path, database_url: str) -> None:
    async with running_installation(tmp_path, database_url, protect_administrators=False) as installation:
        lead = await new_lead(installation, "unprotected")
        token = await lead.token()
        await member_promoted(lead)
        await enroll(installation, token)
