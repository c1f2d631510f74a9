"""Tells whether what somebody sends is an enrollment token, and whether it is still good."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from weakref import WeakValueDictionary

from handclasp.certificate_service.domain.decisions import (
    UNKNOWN_CERTIFICATE,
    DecisionReason,
    UserFacts,
    Verdict,
    judge_certificate,
    judge_user,
)
from handclasp.certificate_service.domain.durations import utc
from handclasp.certificate_service.domain.enrollment_tokens import EnrollmentToken, Purpose, Use, hash_token
from handclasp.certificate_service.domain.identifiers import decision_name, enrollment_token_name, user_name
from handclasp.certificate_service.passwords.throttle import PasswordThrottle, source_of
from handclasp.certificate_service.storage.certificates import find_certificate
from handclasp.certificate_service.storage.database import Database, Snapshot, Transaction
from handclasp.certificate_service.storage.enrollment_tokens import find_token
from handclasp.certificate_service.storage.facts import peer_facts, user_facts
from handclasp.certificate_service.use_cases.caller import Caller, Clock
from handclasp.certificate_service.use_cases.denial_log import DenialLog, Subject
from handclasp.errors import PermissionDenied, Reason, ResourceExhausted, Unauthenticated

# Of tokens nobody knows yet whose they are, so wrong ones are counted by address only.
_NOBODY = ""

_OTHER_PURPOSES = {
    Purpose.CERTIFICATE: ("is for a user's certificate, and not for a replica", "leave out --replica"),
    Purpose.REPLICA: ("is for a replica, and not for a user's certificate", "enroll with --replica"),
}


@dataclass(frozen=True, slots=True)
class Sender:
    """Where a token came from.

    Attributes:
        address: IP address, without port.
        method: the full name of the method that was called, for the record.
    """

    address: str
    method: str


class RecognizedTokens:
    """Finds tokens for whoever sends one. Records each refusal.

    A token has too many random bits to be guessed. An address that tries all the same is slowed down as one that
    guesses passwords is, and so does not keep the database busy.

    Args:
        throttle: for tokens only.
        steady: seconds on a clock that nobody sets, for how long anybody has to wait.
    """

    def __init__(
        self,
        database: Database,
        throttle: PasswordThrottle,
        denials: DenialLog,
        clock: Clock,
        steady: Callable[[], float],
    ) -> None:
        self._database = database
        self._throttle = throttle
        self._denials = denials
        self._clock = clock
        self._steady = steady
        # Each is there for as long as somebody waits for it.
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def find(self, token: str, purpose: Purpose, sender: Sender) -> EnrollmentToken:
        """What is known of the token, which may have expired, or been used.

        Raises:
            Unauthenticated: ENROLLMENT_TOKEN_INVALID, there is none, or it is for another purpose.
            ResourceExhausted: CREDENTIALS_THROTTLED.
        """
        source = source_of(sender.address)
        # One at a time: the throttle counts what is being looked at as wrong, and machines behind one router may well
        # enroll at the same moment.
        async with self._turns.setdefault(source, asyncio.Lock()):
            not_before = self._throttle.begin(_NOBODY, source, self._steady())
            if not_before is not None:
                raise self._throttled(sender, timedelta(seconds=max(0.0, not_before - self._steady())))
            right: bool | None = None
            try:
                found = await self._look_up(token)
                right = found is not None
            finally:
                # If the database could not say, nobody has guessed wrong.
                self._throttle.end(_NOBODY, source, self._steady(), right=right)
        if found is None:
            raise self._unknown(sender)
        if found.purpose is not purpose:
            fault, advice = _OTHER_PURPOSES[found.purpose]
            raise self._refused(found, DecisionReason.ENROLLMENT_TOKEN_INVALID, fault, advice, sender)
        return found

    async def _look_up(self, token: str) -> EnrollmentToken | None:
        token_hash = hash_token(token)
        if token_hash is None:
            return None
        return await self._database.query(lambda snapshot: find_token(snapshot, token_hash))

    async def find_again(self, snapshot: Snapshot, token: EnrollmentToken, sender: Sender) -> EnrollmentToken:
        """The same as it is by now: somebody may have used or voided it. Raises as `find`."""
        found = await find_token(snapshot, token.token_hash)
        if found is None:
            raise self._unknown(sender)
        return found

    def earlier_use(self, token: EnrollmentToken, key_hash: str, sender: Sender) -> Use | None:
        """The use that this would repeat: with the same key, by whoever did not get the answer. None if it is unused.

        Raises:
            Unauthenticated: ENROLLMENT_TOKEN_EXPIRED; ENROLLMENT_TOKEN_USED, with another key.
        """
        if self._clock() >= token.expire_time:
            raise self._refused(
                token,
                DecisionReason.ENROLLMENT_TOKEN_EXPIRED,
                f"expired at {utc(token.expire_time)}",
                "have another one made with `handclasp admin token`",
                sender,
            )
        if token.use is not None and token.use.key_hash != key_hash:
            raise self._refused(
                token,
                DecisionReason.ENROLLMENT_TOKEN_USED,
                f"was used at {utc(token.use.time)}, with another key",
                "if that was not you, tell whoever made it: somebody else has the certificate. Otherwise have another"
                " one made with `handclasp admin token`",
                sender,
            )
        return token.use

    async def maker(self, transaction: Transaction, token: EnrollmentToken, sender: Sender) -> Caller:
        """Whoever made the token, with the grants of now.

        A token gives what its maker could give, so it is worth nothing once its maker is disabled, or the certificate
        that they called with is taken away. That this one has expired since, as each does that was renewed, takes
        nothing from anybody. One that was made by password goes when another one is set.

        Args:
            transaction: in which nobody else commits a change.

        Raises:
            Unauthenticated: ENROLLMENT_TOKEN_INVALID.
        """
        facts, against = await _maker_facts(transaction, token)
        if facts is None or against is not None:
            why = (against or UNKNOWN_CERTIFICATE).rule
            rule = f"{enrollment_token_name(token.id)} was made by {user_name(token.created_by)}: {why}"
            decision = self._record(DecisionReason.ENROLLMENT_TOKEN_INVALID, rule, sender, token.user_id)
            raise _invalid(decision)
        return Caller(facts, token.created_with, address=sender.address)

    def maker_lacks(self, denied: PermissionDenied) -> Unauthenticated:
        """The refusal if the token's maker has no right any more to what it gives. Whoever brings it is told neither
        who that is nor what they lack; the record, which was made already, says so."""
        return _invalid(denied.metadata["decision"])

    def record_disabled(self, token: EnrollmentToken, sender: Sender) -> None:
        """Records that the token's user is disabled."""
        self._record(DecisionReason.USER_DISABLED, f"{user_name(token.user_id)} is disabled", sender, token.user_id)

    def _refused(
        self, token: EnrollmentToken, reason: DecisionReason, fault: str, advice: str, sender: Sender
    ) -> Unauthenticated:
        rule = f"{enrollment_token_name(token.id)} for {user_name(token.user_id)} {fault}"
        decision = self._record(reason, rule, sender, token.user_id)
        # Whoever sent it is told the same reason.
        return Unauthenticated(
            Reason(reason.value), f"the enrollment token {fault}; {advice}", metadata={"decision": decision}
        )

    def _unknown(self, sender: Sender) -> Unauthenticated:
        rule = "no enrollment token is that one; one that was voided is not known any more"
        return _invalid(self._record(DecisionReason.ENROLLMENT_TOKEN_INVALID, rule, sender))

    def _throttled(self, sender: Sender, wait: timedelta) -> ResourceExhausted:
        rule = "too many wrong enrollment tokens from this address"
        return ResourceExhausted(
            Reason.CREDENTIALS_THROTTLED,
            f"{rule}; wait before the next attempt",
            metadata={"decision": self._record(DecisionReason.CREDENTIALS_THROTTLED, rule, sender)},
            retry_after=wait,
        )

    def _record(self, reason: DecisionReason, rule: str, sender: Sender, user_id: str = "") -> str:
        subject = Subject(user_id=user_id, resource=sender.method, peer_address=sender.address)
        return decision_name(self._denials.record(Verdict(reason, rule), subject))


async def _maker_facts(transaction: Transaction, token: EnrollmentToken) -> tuple[UserFacts | None, Verdict | None]:
    """The user who made it, and what stands against them."""
    if not token.created_with:
        user = (await user_facts(transaction, [token.created_by])).get(token.created_by)
        return user, None if user is None else judge_user(user)
    shown = await find_certificate(transaction, token.created_with)
    peer = None if shown is None else await peer_facts(transaction, shown.fingerprint)
    if peer is None:
        return None, None
    return peer.user, judge_certificate(peer, token.create_time)


def _invalid(decision: str) -> Unauthenticated:
    return Unauthenticated(
        Reason.ENROLLMENT_TOKEN_INVALID,
        "there is no such enrollment token, or it was voided, or whoever made it may not give any more what it is for;"
        " check that all of it was copied, and the address of the service, or have another one made with"
        " `handclasp admin token`",
        metadata={"decision": decision},
    )
