"""Denials: on record under the id that the refusal names, for those who may see the audit log."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from handclasp.authorization.v1 import authorization_service_pb2 as pb
from handclasp.authorization.v1 import decision_pb2
from handclasp.certificates.v1 import certificate_service_pb2
from handclasp.errors import HandclaspError, InvalidArgument, NotFound, PermissionDenied, Reason, Unauthenticated
from tests.rpc.account_calls import (
    PASSWORD,
    WRONG_PASSWORD,
    acting_as,
    assign,
    create_user,
    get_user,
    question,
    reason_of,
    refused,
)
from tests.support.installation import Identity, Installation, running_installation

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def explained(installation: Installation, refusal: HandclaspError | decision_pb2.Decision) -> pb.DecisionRecord:
    name = refusal.metadata["decision"] if isinstance(refusal, HandclaspError) else refusal.name
    return await installation.admin.authorization.ExplainDecision(pb.ExplainDecisionRequest(name=name))


async def denied(installation: Installation, identity: Identity | bytes, **fields: str) -> decision_pb2.Decision:
    decision = await installation.relying_party.certificates.CheckPermission(question(identity, **fields))  # type: ignore[arg-type]
    assert not decision.allowed
    return decision


def on_record(decision: decision_pb2.Decision) -> decision_pb2.Decision:
    """What is kept of it."""
    kept = decision_pb2.Decision()
    kept.CopyFrom(decision)
    kept.ClearField("revision")
    return kept


async def test_of_a_peer_says_who_what_why_and_on_whose_behalf(installation: Installation) -> None:
    user = await installation.new_user()
    identity = await installation.issue(user)
    decision = await denied(installation, identity, address="192.0.2.9")
    record = await explained(installation, decision)
    assert record.decision == on_record(decision)
    assert reason_of(record.decision) == "PERMISSION_MISSING"
    assert record.decision.user == f"users/{user}"
    assert record.decision.certificate == identity.name
    assert f"users/{user}" in record.decision.rule
    assert record.count == 1
    assert record.last_time == decision.decide_time
    assert record.relying_party == "users/execution-server"
    assert record.peer_address == "192.0.2.9"
    assert len(record.fingerprint) == 64


async def test_of_an_unknown_certificate_has_its_fingerprint(installation: Installation) -> None:
    record = await explained(installation, await denied(installation, b"anything at all"))
    assert reason_of(record.decision) == "UNKNOWN_CERTIFICATE"
    assert (record.decision.user, record.decision.certificate) == ("", "")
    assert len(record.fingerprint) == 64


async def test_of_a_call_to_the_service_itself(installation: Installation) -> None:
    user = await installation.new_user("regular-user", password=PASSWORD)
    async with acting_as(installation, user, "certificate") as client:
        refusal = await refused(
            client.accounts.CreateUser(create_user("not-made")), PermissionDenied, Reason.ACCESS_DENIED
        )
    record = await explained(installation, refusal)
    assert reason_of(record.decision) == "PERMISSION_MISSING"
    assert record.decision.user == f"users/{user}"
    assert record.decision.resource == "users/not-made"
    assert record.relying_party == ""
    assert record.peer_address in {"127.0.0.1", "::1"}
    assert len(record.fingerprint) == 64


async def test_of_an_administrator_protected(installation: Installation) -> None:
    user = await installation.new_user(grants={"USER_MANAGEMENT": "users/*"})
    async with acting_as(installation, user, "certificate") as client:
        refusal = await refused(
            client.accounts.UpdateUser(assign(user, "administrator")),
            PermissionDenied,
            Reason.ADMINISTRATOR_PROTECTED,
        )
    record = await explained(installation, refusal)
    assert not record.decision.allowed
    assert record.decision.user == f"users/{user}"
    assert record.decision.resource == f"users/{user}"


async def test_of_a_login_names_the_method_and_not_the_password(installation: Installation) -> None:
    async with installation.client(user="nobody-here", password=WRONG_PASSWORD) as client:
        refusal = await refused(client.accounts.GetUser(get_user("admin")), Unauthenticated, Reason.CREDENTIALS_INVALID)
    record = await explained(installation, refusal)
    assert reason_of(record.decision) == "CREDENTIALS_INVALID"
    assert record.decision.user == "users/nobody-here"
    assert record.decision.resource == "/handclasp.accounts.v1.AccountService/GetUser"
    assert WRONG_PASSWORD not in str(record)


async def test_of_a_revoked_certificate_says_what_the_peer_was_not_told(installation: Installation) -> None:
    user = await installation.new_user("regular-user")
    identity = await installation.issue(user)
    await installation.admin.certificates.RevokeCertificate(
        certificate_service_pb2.RevokeCertificateRequest(name=identity.name)
    )
    async with installation.client(identity) as client:
        refusal = await refused(
            client.accounts.GetUser(get_user(user)), Unauthenticated, Reason.CERTIFICATE_NOT_ACCEPTED
        )
    record = await explained(installation, refusal)
    assert reason_of(record.decision) == "REVOKED"
    assert "REVOKED" not in refusal.message
    assert "was revoked at" not in refusal.message


async def test_equal_ones_share_a_record_and_are_counted(installation: Installation) -> None:
    identity = await installation.issue(await installation.new_user())
    ask = installation.relying_party.certificates.CheckPermission
    decisions = await asyncio.gather(*(ask(question(identity)) for _ in range(40)))
    other = await denied(installation, identity, resource="integrations/other")
    assert len({decision.name for decision in decisions}) == 1
    assert other.name != decisions[0].name
    assert (await explained(installation, decisions[0])).count == 40
    assert (await explained(installation, other)).count == 1


async def test_only_those_with_the_permission_see_them(installation: Installation) -> None:
    decision = await denied(installation, await installation.issue(await installation.new_user()))
    request = pb.ExplainDecisionRequest(name=decision.name)
    everything_else = dict.fromkeys(
        ("USER_MANAGEMENT", "ACCESS_CONTROL", "TRUST_MANAGEMENT", "AUTHORIZE_PEERS", "VIEW_EXECUTIONS"), "*"
    )
    missing = pb.ExplainDecisionRequest(name=decision.name[:-4] + "0000")
    for grants, allowed in (
        (everything_else, False),
        ({"VIEW_AUDIT_LOG": "decisions/x*"}, False),
        ({"VIEW_AUDIT_LOG": "decisions/*"}, True),
        ({"VIEW_AUDIT_LOG": decision.name}, True),
    ):
        async with acting_as(installation, await installation.new_user(grants=grants), "certificate") as client:
            explain = client.authorization.ExplainDecision
            if allowed:
                assert (await explain(request)).decision.name == decision.name
            else:
                # Whether there is such a decision is not said.
                for asked in (request, missing):
                    await refused(explain(asked), PermissionDenied, Reason.ACCESS_DENIED)


async def test_what_was_allowed_is_not_kept(installation: Installation) -> None:
    identity = await installation.issue(await installation.new_user("regular-user"))
    decision = await installation.relying_party.certificates.CheckPermission(question(identity))
    assert decision.allowed
    await refused(explained(installation, decision), NotFound, Reason.DECISION_NOT_FOUND)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", Reason.FIELD_INVALID),
        ("decisions/", Reason.FIELD_INVALID),
        ("users/admin", Reason.FIELD_INVALID),
        ("decisions/x", Reason.DECISION_NOT_FOUND),
        ("decisions/\x00", Reason.DECISION_NOT_FOUND),
    ],
)
async def test_names_that_are_none(installation: Installation, name: str, reason: Reason) -> None:
    kind = InvalidArgument if reason is Reason.FIELD_INVALID else NotFound
    await refused(installation.admin.authorization.ExplainDecision(pb.ExplainDecisionRequest(name=name)), kind, reason)


async def test_they_survive_a_restart(tmp_path: Path, database_url: str) -> None:
    async with running_installation(tmp_path, database_url) as installation:
        decision = await denied(installation, await installation.issue(await installation.new_user()))
        assert (await explained(installation, decision)).count == 1
    async with running_installation(tmp_path, database_url) as installation:
        assert (await explained(installation, decision)).decision == on_record(decision)
