"""Lists come in pages; their tokens are for the caller, the method and the filters that they were made for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from handclasp.accounts.v1 import account_service_pb2 as accounts_pb
from handclasp.certificates.v1 import certificate_pb2
from handclasp.certificates.v1 import certificate_service_pb2 as pb
from handclasp.client.client import HandclaspClient
from handclasp.errors import InvalidArgument, Reason
from tests.rpc.account_calls import acting_as, assign, issue_with_key, refused, token_for
from tests.support.installation import Installation
from tests.support.outside_ca import OutsideCA

pytestmark = pytest.mark.asyncio(loop_scope="module")

COUNT = 5


@dataclass(frozen=True)
class Listing:
    """One of the lists: how to ask for a page of it, and the names on that page."""

    ask: Callable[..., Awaitable[Any]]
    field: str

    async def page(self, **request: Any) -> tuple[list[str], str]:
        response = await self.ask(**request)
        return [item.name for item in getattr(response, self.field)], response.next_page_token


def listings(client: HandclaspClient) -> dict[str, Listing]:
    accounts, certificates = client.accounts, client.certificates
    return {
        "users": Listing(lambda **fields: accounts.ListUsers(accounts_pb.ListUsersRequest(**fields)), "users"),
        "profiles": Listing(
            lambda **fields: accounts.ListAccessProfiles(accounts_pb.ListAccessProfilesRequest(**fields)),
            "access_profiles",
        ),
        "certificates": Listing(
            lambda **fields: certificates.ListCertificates(pb.ListCertificatesRequest(**fields)), "certificates"
        ),
        "anchors": Listing(
            lambda **fields: certificates.ListTrustAnchors(pb.ListTrustAnchorsRequest(**fields)), "trust_anchors"
        ),
        "tokens": Listing(
            lambda **fields: certificates.ListEnrollmentTokens(pb.ListEnrollmentTokensRequest(**fields)),
            "enrollment_tokens",
        ),
    }


LISTS = ["users", "profiles", "certificates", "anchors", "tokens"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def filled(installation: Installation) -> Installation:
    """An installation with more than two pages of two of everything."""
    for number in range(COUNT):
        await installation.new_user("regular-user", name=f"listed-{number}")
        await installation.new_profile({"EXECUTE_INTEGRATIONS": f"integrations/{number}"})
        await installation.admin.certificates.IssueCertificate(issue_with_key("listed-0"))
        await installation.admin.certificates.CreateEnrollmentToken(token_for("listed-0"))
        await installation.admin.certificates.AddTrustAnchor(
            pb.AddTrustAnchorRequest(pem=OutsideCA(f"Partner {number}").pem)
        )
    return installation


@pytest.mark.parametrize("name", LISTS)
async def test_pages_make_up_the_whole_list(filled: Installation, name: str) -> None:
    listing = listings(filled.admin)[name]
    everything, token = await listing.page(page_size=1000)
    assert len(everything) >= COUNT
    assert token == ""
    if name in {"users", "profiles"}:
        assert everything == sorted(everything)

    paged: list[str] = []
    while True:
        names, token = await listing.page(page_size=2, page_token=token)
        paged += names
        assert len(names) == 2 or not token
        if not token:
            break
    assert paged == everything


@pytest.mark.parametrize("name", LISTS)
async def test_the_last_page_that_is_just_full_has_no_token(filled: Installation, name: str) -> None:
    listing = listings(filled.admin)[name]
    everything, _ = await listing.page(page_size=1000)
    assert await listing.page(page_size=len(everything)) == (everything, "")


@pytest.mark.parametrize("name", LISTS)
async def test_sizes(filled: Installation, name: str) -> None:
    listing = listings(filled.admin)[name]
    everything, _ = await listing.page(page_size=1000)
    assert await listing.page() == (everything[:100], "")
    assert await listing.page(page_size=2**31 - 1) == (everything, "")
    for size in (-1, -(2**31)):
        error = await refused(listing.page(page_size=size), InvalidArgument, Reason.FIELD_INVALID)
        assert [violation.field for violation in error.violations] == ["page_size"]


@pytest.mark.parametrize("name", LISTS)
async def test_forged_tokens_are_refused(filled: Installation, name: str) -> None:
    listing = listings(filled.admin)[name]
    _, token = await listing.page(page_size=1)
    middle = len(token) // 2
    other = "A" if token[middle] != "A" else "B"
    forgeries = [
        "x",
        "users/listed-1",
        "ü" + token,
        token[:-4],
        token[:middle] + other + token[middle + 1 :],
        token * 50,
        "gAAAAA" + "A" * 200,
        " ",
        "\x00",
    ]
    for forgery in forgeries:
        error = await refused(listing.page(page_size=1, page_token=forgery), InvalidArgument, Reason.PAGE_TOKEN_INVALID)
        assert [violation.field for violation in error.violations] == ["page_token"]


async def test_tokens_tell_nothing(filled: Installation) -> None:
    """They hold the last name of the page: of a resource that may be hidden from whoever reads the token later."""
    listing = listings(filled.admin)["users"]
    first, token = await listing.page(page_size=1)
    again, other = await listing.page(page_size=1)
    assert first == again
    assert token != other
    assert first[0].removeprefix("users/") not in token


async def test_tokens_of_one_list_do_not_fit_another(filled: Installation) -> None:
    found = listings(filled.admin)
    tokens = {name: (await listing.page(page_size=1))[1] for name, listing in found.items()}
    assert all(tokens.values())
    for name, listing in found.items():
        for other, token in tokens.items():
            if other != name:
                await refused(listing.page(page_size=1, page_token=token), InvalidArgument, Reason.PAGE_TOKEN_INVALID)


@pytest.mark.parametrize("name", LISTS)
async def test_tokens_of_one_caller_do_not_fit_another(filled: Installation, name: str) -> None:
    _, token = await listings(filled.admin)[name].page(page_size=1)
    other = await filled.new_user("administrator")
    async with acting_as(filled, other, "certificate") as client:
        listing = listings(client)[name]
        await refused(listing.page(page_size=1, page_token=token), InvalidArgument, Reason.PAGE_TOKEN_INVALID)


async def test_tokens_belong_to_the_user_however_they_log_in(filled: Installation) -> None:
    _, token = await listings(filled.admin)["users"].page(page_size=1)
    async with filled.client(user="admin", password=filled.admin_password) as client:
        names, _ = await listings(client)["users"].page(page_size=1, page_token=token)
    assert names != []


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"user": "users/listed-1"},
        {"user": "users/listed-0", "states": [certificate_pb2.Certificate.STATE_ACTIVE]},
        {"user": "users/listed-0", "serial": "0a"},
    ],
)
async def test_tokens_of_one_filter_do_not_fit_another(filled: Installation, changed: dict[str, Any]) -> None:
    listing = listings(filled.admin)["certificates"]
    _, token = await listing.page(page_size=1, user="users/listed-0")
    await refused(listing.page(page_size=1, page_token=token, **changed), InvalidArgument, Reason.PAGE_TOKEN_INVALID)
    names, _ = await listing.page(page_size=3, page_token=token, user="users/listed-0", view=pb.CERTIFICATE_VIEW_FULL)
    assert len(names) == 3


async def test_a_token_shows_no_more_than_the_caller_may_see_by_then(filled: Installation) -> None:
    profile_id = await filled.new_profile({"USER_MANAGEMENT": "users/listed-*"})
    caller = await filled.new_user(profile_id)
    async with acting_as(filled, caller, "certificate") as client:
        listing = listings(client)["users"]
        names, token = await listing.page(page_size=2)
        assert names == ["users/listed-0", "users/listed-1"]
        await filled.admin.accounts.UpdateUser(assign(caller))
        assert await listing.page(page_size=2, page_token=token) == ([f"users/{caller}"], "")


async def test_new_certificates_come_after_the_page_that_one_is_at(filled: Installation) -> None:
    listing = listings(filled.admin)["certificates"]
    everything, token = await listing.page(page_size=1000)
    assert token == ""
    _, token = await listing.page(page_size=len(everything) - 1)
    made = await filled.admin.certificates.IssueCertificate(issue_with_key("listed-2"))
    rest, _ = await listing.page(page_size=1000, page_token=token)
    assert rest == [everything[-1], made.certificate.name]
