"""What was refused last, by whatever rule, listed for those who may see the audit log; and what relying parties
report."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from handclasp.authorization.v1 import authorization_service_pb2 as pb
from handclasp.authorization.v1.refusal_pb2 import Refusal
from handclasp.client.paging import items
from handclasp.errors import InvalidArgument, PermissionDenied, Reason, Unauthenticated
from tests.rpc.account_calls import acting_as, get_user, question, refused
from tests.support.installation import Installation, running_installation

pytestmark = pytest.mark.asyncio(loop_scope="module")

HANDSHAKE, CALL, DECISION = Refusal.KIND_HANDSHAKE, Refusal.KIND_CALL, Refusal.KIND_DECISION
GET_USER = "/handclasp.accounts.v1.AccountService/GetUser"


def report(*refusals: Refusal) -> pb.ReportRefusalsRequest:
    return pb.ReportRefusalsRequest(refusals=refusals)


def expired(count: int = 1, **fields: Any) -> Refusal:
    return Refusal(**{"kind": HANDSHAKE, "reason": "EXPIRED", "listener": "executions", "count": count, **fields})


async def listed(installation: Installation, since: timedelta | None = None) -> list[Refusal]:
    request = pb.ListRefusalsRequest()
    if since is not None:
        request.since.FromDatetime(installation.clock() - since)
    method = installation.admin.authorization.ListRefusals
    return [item async for item in items(method, request, lambda page: page.refusals)]


async def test_decisions_calls_and_reports_the_newest_first(installation: Installation) -> None:
    identity = await installation.issue(await installation.new_user())
    decision = await installation.relying_party.certificates.CheckPermission(question(identity, address="192.0.2.77"))
    async with installation.client() as nobody:
        await refused(nobody.accounts.GetUser(get_user("admin")), Unauthenticated, Reason.CREDENTIALS_MISSING)
    await installation.relying_party.authorization.ReportRefusals(report(expired(3)))

    reported, called, decided = (await listed(installation))[:3]
    assert (reported.kind, reported.reason, reported.listener, reported.count) == (
        HANDSHAKE,
        "EXPIRED",
        "executions",
        3,
    )
    assert reported.relying_party == "users/execution-server"
    assert (called.kind, called.reason, called.resource) == (CALL, "CREDENTIALS_MISSING", GET_USER)
    assert called.peer_address in {"127.0.0.1", "::1"}
    assert called.relying_party == ""
    assert (decided.kind, decided.reason, decided.name) == (DECISION, "PERMISSION_MISSING", decision.name)
    assert (decided.peer_address, decided.relying_party) == ("192.0.2.77", "users/execution-server")
    assert reported.name.startswith("refusals/")


async def test_what_is_refused_by_a_decision_is_not_listed_twice(installation: Installation) -> None:
    user = await installation.new_user()
    async with acting_as(installation, user, "certificate") as client:
        asked = client.authorization.ListRefusals(pb.ListRefusalsRequest())
        await refused(asked, PermissionDenied, Reason.ACCESS_DENIED)
    everything = await listed(installation)
    found = [item for item in everything if item.user == f"users/{user}"]
    assert [(item.kind, item.reason, item.resource) for item in found] == [
        (DECISION, "PERMISSION_MISSING", "decisions/*")
    ]
    assert not [item for item in everything if item.kind == CALL and item.reason == "ACCESS_DENIED"]


async def test_equal_ones_are_counted(installation: Installation) -> None:
    for count in (2, 5):
        await installation.relying_party.authorization.ReportRefusals(report(expired(count, listener="counted")))
    (found,) = (item for item in await listed(installation) if item.listener == "counted")
    assert found.count == 7


async def test_who_reports_does_not_say_for_whom(installation: Installation) -> None:
    forged = Refusal(name="refusals/x", relying_party="users/admin", user="users/admin", rule="made up")
    forged.MergeFrom(expired(listener="forged"))
    await installation.relying_party.authorization.ReportRefusals(report(forged))
    (found,) = (item for item in await listed(installation) if item.listener == "forged")
    assert found.relying_party == "users/execution-server"
    assert (found.user, found.rule) == ("", "")
    assert found.name != "refusals/x"


async def test_only_relying_parties_report_and_only_auditors_read(installation: Installation) -> None:
    broken = report(Refusal())
    for grants, may_report, may_list in (
        ({"USER_MANAGEMENT": "*", "VIEW_AUDIT_LOG": "decisions/x*"}, False, False),
        ({"VIEW_AUDIT_LOG": "decisions/*"}, False, True),
        ({"AUTHORIZE_PEERS": "integrations/one"}, True, False),
    ):
        async with acting_as(installation, await installation.new_user(grants=grants), "certificate") as client:
            if may_report:
                await client.authorization.ReportRefusals(report(expired(listener="allowed")))
                await refused(client.authorization.ReportRefusals(broken), InvalidArgument, Reason.FIELD_INVALID)
            else:
                # Before anything of it is looked at.
                await refused(client.authorization.ReportRefusals(broken), PermissionDenied, Reason.ACCESS_DENIED)
            asked = client.authorization.ListRefusals(pb.ListRefusalsRequest(page_size=1))
            if may_list:
                assert len((await asked).refusals) == 1
            else:
                await refused(asked, PermissionDenied, Reason.ACCESS_DENIED)


async def test_a_relying_party_reports_over_mutual_tls_only(installation: Installation) -> None:
    async with acting_as(installation, await installation.new_user("administrator"), "password") as client:
        await refused(
            client.authorization.ReportRefusals(report(expired())), PermissionDenied, Reason.MUTUAL_TLS_REQUIRED
        )


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        [expired()] * 101,
        [expired(0)],
        [expired(10**10)],
        [expired(-1)],
        [expired(kind=DECISION)],
        [expired(kind=Refusal.KIND_UNSPECIFIED)],
        [expired(reason="")],
        [expired(reason="lower")],
        [expired(reason="X" * 65)],
        [expired(listener="x" * 257)],
        [expired(peer_address="192.0.2.1\n")],
        [expired(resource="\x1b[2J")],
        [expired(fingerprint="AB")],
    ],
)
async def test_reports_that_do_not_fit(installation: Installation, wrong: list[Refusal]) -> None:
    await refused(
        installation.relying_party.authorization.ReportRefusals(report(*wrong)), InvalidArgument, Reason.FIELD_INVALID
    )


async def test_since_and_pages(installation: Installation) -> None:
    await installation.relying_party.authorization.ReportRefusals(report(expired(listener="long-ago")))
    before = await listed(installation)
    with installation.clock.ahead(timedelta(hours=1)):
        await installation.relying_party.authorization.ReportRefusals(
            report(*(expired(listener=f"page-{number}") for number in range(5)))
        )
        recent = [item.listener for item in await listed(installation, timedelta(minutes=30))]
        assert sorted(recent) == [f"page-{number}" for number in range(5)]
        method = installation.admin.authorization.ListRefusals
        request = pb.ListRefusalsRequest(page_size=2)
        paged: list[str] = []
        while len(paged) < 6:
            page = await method(request)
            paged += [item.name for item in page.refusals]
            request.page_token = page.next_page_token
        assert paged[:6] == [item.name for item in await listed(installation)][:6]
        first = await method(pb.ListRefusalsRequest(page_size=2))
        request = pb.ListRefusalsRequest(page_size=2, page_token=first.next_page_token)
        request.since.FromDatetime(installation.clock())
        await refused(method(request), InvalidArgument, Reason.PAGE_TOKEN_INVALID)
    assert "long-ago" in {item.listener for item in before}


async def test_one_that_reports_a_flood_pushes_out_nothing_of_others(tmp_path: Path, database_url: str) -> None:
    limits = {"keep": 20, "different": 10, "window": timedelta(0), "flush_interval": timedelta(seconds=60)}
    async with running_installation(tmp_path, database_url, refusal_records=limits) as installation:
        async with installation.client() as nobody:
            await refused(nobody.accounts.GetUser(get_user("admin")), Unauthenticated, Reason.CREDENTIALS_MISSING)
        user = await installation.new_user(grants={"AUTHORIZE_PEERS": "*"})
        async with acting_as(installation, user, "certificate") as flooding:
            for start in range(0, 3000, 100):
                reports = (expired(listener=f"x{number}", reason=f"R{number}") for number in range(start, start + 100))
                await flooding.authorization.ReportRefusals(report(*reports))
                if start % 300 == 0:
                    await listed(installation)
        await installation.relying_party.authorization.ReportRefusals(report(expired(listener="another's")))
        found = await listed(installation)
        assert len([item for item in found if item.relying_party == f"users/{user}"]) <= 20
        assert [item.listener for item in found if item.relying_party == "users/execution-server"] == ["another's"]
        own = [item.reason for item in found if not item.relying_party and item.kind == CALL]
        assert own == ["CREDENTIALS_MISSING"]

    async with running_installation(tmp_path, database_url) as restarted:
        assert {item.name for item in found} <= {item.name for item in await listed(restarted)}
