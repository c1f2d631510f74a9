"""Decisions: each reason, and which one is named when several stand against a peer."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from itertools import combinations

import pytest

from handclasp.authorization.v1 import decision_pb2
from handclasp.certificate_service.domain.certificates import Hold, Revocation, RevocationReason
from handclasp.certificate_service.domain.decisions import (
    CertificateFacts,
    CredentialsOutcome,
    DecisionReason,
    PeerFacts,
    UserFacts,
    Verdict,
    decide,
)
from handclasp.certificate_service.domain.permissions import Grant, Permission, ProfileGrant
from tests.unit.x509.refusals import NOW

RESOURCE = "integrations/echo"
END = NOW + timedelta(days=1)
EXECUTE = Permission.EXECUTE_INTEGRATIONS
GOOD = PeerFacts(
    CertificateFacts(
        id="c1",
        fingerprint="f1",
        not_before=NOW - timedelta(days=1),
        trusted_until=END,
        revocation=None,
        hold=None,
        anchor_id=None,
        anchor_removed=False,
    ),
    UserFacts("alice", active=True, grants=(ProfileGrant("runners", Grant(EXECUTE, "integrations/ech*")),)),
)


def ask(facts: PeerFacts | None, credentials: CredentialsOutcome | None = None) -> Verdict:
    return decide(facts, credentials, EXECUTE, RESOURCE, NOW)


def certificate(**changes: object) -> PeerFacts:
    return replace(GOOD, certificate=replace(GOOD.certificate, **changes))  # type: ignore[arg-type]


def user(**changes: object) -> PeerFacts:
    return replace(GOOD, user=replace(GOOD.user, **changes))  # type: ignore[arg-type]


REVOCATION = Revocation(NOW - timedelta(hours=1), RevocationReason.KEY_COMPROMISE, "admin")
HOLD = Hold(NOW - timedelta(hours=2), "admin")
WITHOUT_IT = (ProfileGrant("others", Grant(Permission.USER_MANAGEMENT)),)
ELSEWHERE = (ProfileGrant("others", Grant(EXECUTE, "integrations/orders.*")),)


def test_allowed_names_the_rule_and_ends_with_the_trust() -> None:
    verdict = ask(GOOD)
    assert verdict.allowed
    assert verdict.reason is DecisionReason.ALLOWED
    assert "accessProfiles/runners" in verdict.rule
    assert "integrations/ech*" in verdict.rule
    assert verdict.expire_time == END


@pytest.mark.parametrize(
    ("facts", "reason", "words"),
    [
        (None, DecisionReason.UNKNOWN_CERTIFICATE, "on file"),
        (certificate(revocation=REVOCATION), DecisionReason.REVOKED, "KEY_COMPROMISE"),
        (certificate(hold=HOLD), DecisionReason.ON_HOLD, "2030-01-31T10:00:00Z"),
        (certificate(anchor_removed=True), DecisionReason.ANCHOR_REMOVED, "certificates/c1"),
        (certificate(trusted_until=NOW - timedelta(days=1)), DecisionReason.EXPIRED, "2030-01-30T12:00:00Z"),
        (certificate(not_before=NOW + timedelta(days=1)), DecisionReason.NOT_YET_VALID, "2030-02-01T12:00:00Z"),
        (user(active=False), DecisionReason.USER_DISABLED, "users/alice"),
        (user(grants=()), DecisionReason.PERMISSION_MISSING, "EXECUTE_INTEGRATIONS"),
        (user(grants=WITHOUT_IT), DecisionReason.PERMISSION_MISSING, "users/alice"),
        (user(grants=ELSEWHERE), DecisionReason.RESOURCE_NOT_GRANTED, RESOURCE),
    ],
)
def test_each_reason(facts: PeerFacts | None, reason: DecisionReason, words: str) -> None:
    verdict = ask(facts)
    assert verdict.reason is reason
    assert not verdict.allowed
    assert words in verdict.rule
    assert verdict.expire_time is None


@pytest.mark.parametrize(
    "reason",
    [
        DecisionReason.CREDENTIALS_INVALID,
        DecisionReason.CREDENTIALS_MISMATCH,
        DecisionReason.CREDENTIALS_THROTTLED,
    ],
)
def test_each_reason_of_credentials(reason: DecisionReason) -> None:
    verdict = ask(GOOD, CredentialsOutcome(reason, END))
    assert verdict.reason is reason
    assert verdict.retry_time == END
    assert verdict.expire_time is None


def test_validity_has_a_first_and_a_last_moment() -> None:
    """RFC 5280 includes both ends, in seconds; what has expired is refused from its last moment on."""
    assert ask(certificate(not_before=NOW)).allowed
    assert ask(certificate(not_before=NOW + timedelta(microseconds=1))).reason is DecisionReason.NOT_YET_VALID
    assert ask(certificate(trusted_until=NOW)).reason is DecisionReason.EXPIRED
    assert ask(certificate(trusted_until=NOW + timedelta(microseconds=1))).allowed


# What may stand against a peer, in the order in which it is named.
CERTIFICATE_FAULTS: list[tuple[DecisionReason, dict[str, object]]] = [
    (DecisionReason.REVOKED, {"revocation": REVOCATION}),
    (DecisionReason.ON_HOLD, {"hold": HOLD}),
    (DecisionReason.ANCHOR_REMOVED, {"anchor_removed": True}),
    (DecisionReason.EXPIRED, {"trusted_until": NOW - timedelta(days=1)}),
    (DecisionReason.NOT_YET_VALID, {"not_before": NOW + timedelta(days=1)}),
]
ORDER = [
    *(reason for reason, _ in CERTIFICATE_FAULTS),
    DecisionReason.USER_DISABLED,
    DecisionReason.CREDENTIALS_INVALID,
    DecisionReason.PERMISSION_MISSING,
]


def with_faults(faults: tuple[DecisionReason, ...]) -> Verdict:
    changes: dict[str, object] = {}
    for reason, change in CERTIFICATE_FAULTS:
        if reason in faults:
            changes |= change
    facts = certificate(**changes)
    if DecisionReason.USER_DISABLED in faults:
        facts = replace(facts, user=replace(facts.user, active=False))
    if DecisionReason.PERMISSION_MISSING in faults:
        facts = replace(facts, user=replace(facts.user, grants=()))
    wrong = DecisionReason.CREDENTIALS_INVALID in faults
    return ask(facts, CredentialsOutcome(DecisionReason.CREDENTIALS_INVALID) if wrong else None)


@pytest.mark.parametrize("count", range(1, len(ORDER) + 1))
def test_of_several_the_first_is_named(count: int) -> None:
    for faults in combinations(ORDER, count):
        assert with_faults(faults).reason is faults[0], faults


def test_an_unknown_certificate_is_that_whatever_was_sent_along() -> None:
    outcome = CredentialsOutcome(DecisionReason.CREDENTIALS_INVALID)
    assert ask(None, outcome).reason is DecisionReason.UNKNOWN_CERTIFICATE


def test_any_of_several_grants_will_do() -> None:
    grants = (*ELSEWHERE, *WITHOUT_IT, ProfileGrant("exact", Grant(EXECUTE, RESOURCE)))
    assert "accessProfiles/exact" in ask(user(grants=grants)).rule


def test_a_grant_of_another_permission_reaches_nothing() -> None:
    grants = tuple(ProfileGrant("p", Grant(permission)) for permission in Permission if permission is not EXECUTE)
    assert ask(user(grants=grants)).reason is DecisionReason.PERMISSION_MISSING


def test_the_protos_have_the_same_reasons() -> None:
    names = {name.removeprefix("DECISION_REASON_") for name in decision_pb2.DecisionReason.keys()}  # noqa: SIM118
    assert names - {"UNSPECIFIED"} == {reason.value for reason in DecisionReason}
