"""The decision: may whoever presented this certificate do that to this resource?

Pure: facts that were read in one snapshot come in, with the moment; a verdict comes out. Nothing is allowed that no
grant allows, and of all that stands against a peer the first in this order is named: the certificate, the user, the
credentials, the grants.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from handclasp.certificate_service.domain.certificates import Hold, Revocation, RevocationReason
from handclasp.certificate_service.domain.durations import utc
from handclasp.certificate_service.domain.identifiers import (
    access_profile_name,
    certificate_name,
    trust_anchor_name,
    user_name,
)
from handclasp.certificate_service.domain.permissions import Permission, ProfileGrant


class DecisionReason(StrEnum):
    """Why; decision.proto says what each means."""

    ALLOWED = "ALLOWED"
    UNKNOWN_CERTIFICATE = "UNKNOWN_CERTIFICATE"
    REVOKED = "REVOKED"
    EXPIRED = "EXPIRED"
    NOT_YET_VALID = "NOT_YET_VALID"
    USER_DISABLED = "USER_DISABLED"
    ANCHOR_REMOVED = "ANCHOR_REMOVED"
    CREDENTIALS_INVALID = "CREDENTIALS_INVALID"
    CREDENTIALS_MISMATCH = "CREDENTIALS_MISMATCH"
    CREDENTIALS_THROTTLED = "CREDENTIALS_THROTTLED"
    PERMISSION_MISSING = "PERMISSION_MISSING"
    RESOURCE_NOT_GRANTED = "RESOURCE_NOT_GRANTED"
    ON_HOLD = "ON_HOLD"
    ENROLLMENT_TOKEN_INVALID = "ENROLLMENT_TOKEN_INVALID"
    ENROLLMENT_TOKEN_EXPIRED = "ENROLLMENT_TOKEN_EXPIRED"
    ENROLLMENT_TOKEN_USED = "ENROLLMENT_TOKEN_USED"


@dataclass(frozen=True, slots=True)
class UserFacts:
    """What decisions know of a user."""

    id: str
    active: bool
    grants: tuple[ProfileGrant, ...]


@dataclass(frozen=True, slots=True)
class CertificateFacts:
    """What decisions know of a certificate on file."""

    id: str
    fingerprint: str
    not_before: datetime
    trusted_until: datetime
    revocation: Revocation | None
    hold: Hold | None
    anchor_id: str | None
    """Of the trust anchor that it chains to; None if it is our own, or the anchor was removed."""
    anchor_removed: bool


@dataclass(frozen=True, slots=True)
class PeerFacts:
    """A certificate on file and the user it is mapped to, read in one snapshot."""

    certificate: CertificateFacts
    user: UserFacts


@dataclass(frozen=True, slots=True)
class CredentialsOutcome:
    """What became of the Basic credentials that a peer sent along."""

    reason: DecisionReason
    """CREDENTIALS_INVALID, CREDENTIALS_MISMATCH or CREDENTIALS_THROTTLED."""
    retry_time: datetime | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a decision came out.

    Attributes:
        rule: for people: the grant that allowed, or what stood against it.
        expire_time: when a yes ends by itself; None on a no, and for peers without a certificate.
        retry_time: only if throttled.
        rests_on: names of all that a yes rests on; empty on a no, and for peers without a certificate.
    """

    reason: DecisionReason
    rule: str
    expire_time: datetime | None = None
    retry_time: datetime | None = None
    rests_on: tuple[str, ...] = ()

    @property
    def allowed(self) -> bool:
        return self.reason is DecisionReason.ALLOWED


UNKNOWN_CERTIFICATE = Verdict(
    DecisionReason.UNKNOWN_CERTIFICATE, "the leaf is not, byte for byte, a certificate on file"
)


def judge_certificate(facts: PeerFacts, now: datetime) -> Verdict | None:
    """What stands against the certificate or its user, if anything does."""
    certificate = facts.certificate
    name = certificate_name(certificate.id)
    if certificate.revocation is not None:
        revocation = certificate.revocation
        unsaid = revocation.reason is RevocationReason.UNSPECIFIED
        why = "no reason given" if unsaid else f"reason {revocation.reason}"
        return Verdict(DecisionReason.REVOKED, f"{name} was revoked at {utc(revocation.time)}, {why}")
    if certificate.hold is not None:
        return Verdict(DecisionReason.ON_HOLD, f"{name} is on hold since {utc(certificate.hold.time)}")
    if certificate.anchor_removed:
        return Verdict(DecisionReason.ANCHOR_REMOVED, f"the trust anchor that {name} chains to was removed")
    if now >= certificate.trusted_until:
        return Verdict(
            DecisionReason.EXPIRED,
            f"{name}, or a certificate that it chains to, expired at {utc(certificate.trusted_until)}",
        )
    if now < certificate.not_before:
        return Verdict(DecisionReason.NOT_YET_VALID, f"{name} is not valid before {utc(certificate.not_before)}")
    return judge_user(facts.user)


def judge_user(user: UserFacts) -> Verdict | None:
    """What stands against the user, if anything does."""
    if not user.active:
        return Verdict(DecisionReason.USER_DISABLED, f"{user_name(user.id)} is disabled")
    return None


def judge_credentials(outcome: CredentialsOutcome | None, user_id: str) -> Verdict | None:
    """What stands against the Basic credentials, if they were sent and are not those of the user."""
    if outcome is None:
        return None
    rules = {
        DecisionReason.CREDENTIALS_INVALID: f"the password sent along is not that of {user_name(user_id)}",
        DecisionReason.CREDENTIALS_MISMATCH: f"the credentials sent along name another user than {user_name(user_id)}",
        DecisionReason.CREDENTIALS_THROTTLED: "too many wrong passwords for this user, from there or in all",
    }
    return Verdict(outcome.reason, rules[outcome.reason], retry_time=outcome.retry_time)


def judge_grants(user: UserFacts, permission: Permission, resource: str) -> Verdict:
    """Whether a grant of the user's allows it."""
    missing = True
    for item in user.grants:
        if item.grant.permission is not permission:
            continue
        missing = False
        if item.grant.reaches(resource):
            profile = access_profile_name(item.profile_id)
            return Verdict(DecisionReason.ALLOWED, f"{profile} grants {item.grant}", rests_on=(profile,))
    if missing:
        return Verdict(
            DecisionReason.PERMISSION_MISSING, f"no access profile of {user_name(user.id)} grants {permission}"
        )
    return Verdict(
        DecisionReason.RESOURCE_NOT_GRANTED,
        f"{user_name(user.id)} has {permission}, but no grant of it reaches {resource}",
    )


def decide(
    facts: PeerFacts | None,
    credentials: CredentialsOutcome | None,
    permission: Permission,
    resource: str,
    now: datetime,
) -> Verdict:
    """The whole decision on a peer that presented a certificate."""
    if facts is None:
        return UNKNOWN_CERTIFICATE
    against = judge_certificate(facts, now) or judge_credentials(credentials, facts.user.id)
    if against is not None:
        return against
    verdict = judge_grants(facts.user, permission, resource)
    return _allowed(facts, verdict) if verdict.allowed else verdict


def decide_on_peer(facts: PeerFacts | None, now: datetime) -> Verdict:
    """Whether a peer that presented a certificate is accepted at all, whatever it may do."""
    if facts is None:
        return UNKNOWN_CERTIFICATE
    against = judge_certificate(facts, now)
    if against is not None:
        return against
    in_force = f"{certificate_name(facts.certificate.id)} is in force, and {user_name(facts.user.id)} is active"
    return _allowed(facts, Verdict(DecisionReason.ALLOWED, in_force))


def _allowed(facts: PeerFacts, verdict: Verdict) -> Verdict:
    """A yes, with all that it rests on and until when."""
    certificate = facts.certificate
    anchor = () if certificate.anchor_id is None else (trust_anchor_name(certificate.anchor_id),)
    rests_on = (certificate_name(certificate.id), user_name(facts.user.id), *verdict.rests_on, *anchor)
    return Verdict(verdict.reason, verdict.rule, certificate.trusted_until, rests_on=rests_on)
