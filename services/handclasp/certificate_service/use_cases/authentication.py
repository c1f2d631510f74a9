"""Establishes who calls this service: by the client certificate, by Basic credentials, or by both if they agree."""

from __future__ import annotations

from handclasp.certificate_service.domain.decisions import (
    UNKNOWN_CERTIFICATE,
    CredentialsOutcome,
    DecisionReason,
    UserFacts,
    Verdict,
    judge_certificate,
    judge_credentials,
    judge_user,
)
from handclasp.certificate_service.domain.identifiers import decision_name
from handclasp.certificate_service.passwords.checking import Checked, PasswordChecker
from handclasp.certificate_service.storage.facts import FactsReader
from handclasp.certificate_service.use_cases.caller import Caller, Clock, Credentials
from handclasp.certificate_service.use_cases.denial_log import DenialLog, Subject
from handclasp.errors import HandclaspError, Reason, ResourceExhausted, Unauthenticated

# Users' ids are shorter, so a longer name is nobody's, and still is when it is cut to this. What is counted and
# recorded by name has a bounded size then.
_LONGEST_NAME = 64


class Authenticator:
    """Turns what a peer presented into a caller, or refuses."""

    def __init__(self, facts: FactsReader, passwords: PasswordChecker, denials: DenialLog, clock: Clock) -> None:
        self._facts = facts
        self._passwords = passwords
        self._denials = denials
        self._clock = clock

    async def authenticate(
        self, *, fingerprint: str | None, credentials: Credentials | None, address: str, method: str
    ) -> Caller:
        """The caller.

        Args:
            fingerprint: SHA-256 of the DER of the leaf that the TLS stack let in; None on the one-way listener.
            method: the full name of the method called, for the record.

        Raises:
            Unauthenticated: neither was presented, or what was is not accepted.
            ResourceExhausted: CREDENTIALS_THROTTLED or PASSWORD_CHECKS_BUSY.
        """
        if fingerprint is not None:
            return await self._by_certificate(fingerprint, credentials, address, method)
        if credentials is not None:
            return await self._by_password(credentials, address, method)
        raise Unauthenticated(
            Reason.CREDENTIALS_MISSING,
            "no credentials were sent; send a user name and password as Basic credentials, or present a client"
            " certificate on the mutual TLS port",
        )

    async def credentials_outcome(
        self, credentials: Credentials | None, user_id: str, address: str, *, relying_party: str = ""
    ) -> CredentialsOutcome | None:
        """What becomes of credentials sent along with a certificate of that user; None if they are right, or none were
        sent.

        Args:
            relying_party: the id of the user whose relying party asks, and says the address; empty if they were sent to
                this service itself.
        """
        if credentials is None:
            return None
        if credentials.username != user_id:
            return CredentialsOutcome(DecisionReason.CREDENTIALS_MISMATCH)
        return _outcome_of(await self._check_password(credentials, address, relying_party))

    async def _by_certificate(
        self, fingerprint: str, credentials: Credentials | None, address: str, method: str
    ) -> Caller:
        facts = await self._facts.peer(fingerprint)
        subject = Subject(resource=method, peer_address=address, fingerprint=fingerprint)
        if facts is None:
            raise self._refusal(UNKNOWN_CERTIFICATE, subject)
        subject = Subject(
            user_id=facts.user.id,
            certificate_id=facts.certificate.id,
            resource=method,
            peer_address=address,
            fingerprint=fingerprint,
        )
        against = judge_certificate(facts, self._clock())
        if against is None:
            outcome = await self.credentials_outcome(credentials, facts.user.id, address)
            against = judge_credentials(outcome, facts.user.id)
        if against is not None:
            raise self._refusal(against, subject)
        return Caller(facts.user, facts.certificate.id, fingerprint, address)

    async def _by_password(self, credentials: Credentials, address: str, method: str) -> Caller:
        name = credentials.username[:_LONGEST_NAME]
        checked = await self._check_password(credentials, address)
        user: UserFacts | None = None
        against = judge_credentials(_outcome_of(checked), name)
        if against is None:
            # Read after the password was checked, which takes a while.
            user = await self._facts.user(name)
            against = judge_user(user) if user is not None else _wrong_password(name)
        if user is None or against is not None:
            subject = Subject(user_id=name, resource=method, peer_address=address)
            raise self._refusal(against or _wrong_password(name), subject)
        return Caller(user, address=address, password_hash=checked.password_hash)

    async def _check_password(self, credentials: Credentials, address: str, relying_party: str = "") -> Checked:
        name = credentials.username[:_LONGEST_NAME]
        return await self._passwords.check(name, credentials.password, address, relying_party=relying_party)

    def _refusal(self, verdict: Verdict, subject: Subject) -> HandclaspError:
        """Records the denial. The peer is told little: not whether a user exists, nor what became of a certificate."""
        metadata = {"decision": decision_name(self._denials.record(verdict, subject))}
        match verdict.reason:
            case DecisionReason.CREDENTIALS_THROTTLED if verdict.retry_time is not None:
                return ResourceExhausted(
                    Reason.CREDENTIALS_THROTTLED,
                    "too many wrong passwords for this user, from this address or from all together; wait before the"
                    " next attempt, or use a certificate",
                    metadata=metadata,
                    retry_after=verdict.retry_time - self._clock(),
                )
            case DecisionReason.CREDENTIALS_MISMATCH:
                return Unauthenticated(
                    Reason.CREDENTIALS_MISMATCH,
                    "the Basic credentials name another user than the certificate; send those of the same user, or"
                    " none",
                    metadata=metadata,
                )
            case DecisionReason.CREDENTIALS_INVALID:
                return _credentials_refused(metadata)
            case DecisionReason.USER_DISABLED if not subject.fingerprint:
                return _credentials_refused(metadata)
            case _:
                return Unauthenticated(
                    Reason.CERTIFICATE_NOT_ACCEPTED,
                    "the client certificate is not accepted; it may be unknown here, revoked, on hold or expired, or"
                    " its user disabled. Whoever may see the audit log can explain the decision",
                    metadata=metadata,
                )


def _outcome_of(checked: Checked) -> CredentialsOutcome | None:
    """None if the password is right."""
    if checked.retry_time is not None:
        return CredentialsOutcome(DecisionReason.CREDENTIALS_THROTTLED, checked.retry_time)
    return None if checked.right else CredentialsOutcome(DecisionReason.CREDENTIALS_INVALID)


def _wrong_password(user_id: str) -> Verdict:
    return Verdict(DecisionReason.CREDENTIALS_INVALID, f"there is no user {user_id}, or it is another password")


def _credentials_refused(metadata: dict[str, str]) -> Unauthenticated:
    return Unauthenticated(
        Reason.CREDENTIALS_INVALID,
        "user name or password is wrong, or the user is disabled; check both, or use a certificate",
        metadata=metadata,
    )
