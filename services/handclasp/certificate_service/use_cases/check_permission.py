"""Decides, for a relying party, whether its peer may do something."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

from handclasp.certificate_service.domain.decisions import (
    PeerFacts,
    Verdict,
    decide,
    decide_on_peer,
    judge_certificate,
)
from handclasp.certificate_service.domain.identifiers import (
    certificate_name,
    decision_name,
    new_id,
    user_name,
)
from handclasp.certificate_service.domain.permissions import Permission
from handclasp.certificate_service.storage.facts import FactsReader
from handclasp.certificate_service.use_cases.access import Access
from handclasp.certificate_service.use_cases.authentication import Authenticator
from handclasp.certificate_service.use_cases.caller import Caller, Clock, Credentials
from handclasp.certificate_service.use_cases.denial_log import DenialLog, Subject
from handclasp.errors import Reason, Unavailable

LogRefusal: TypeAlias = Callable[[str, Mapping[str, str], Mapping[str, str]], None]
"""Takes the event, what makes it another one, and what the line is to have besides."""


@dataclass(frozen=True, slots=True)
class PeerQuestion:
    """Is whoever presented that leaf accepted at all?

    Attributes:
        min_revision: the answer must take into account every change up to this one.
    """

    fingerprint: str
    peer_address: str
    min_revision: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PermissionQuestion(PeerQuestion):
    """May they, perhaps with those credentials, do this to each of those resources?"""

    credentials: Credentials | None
    permission: Permission
    resources: Sequence[str]


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer for one resource, or on the peer itself: then without permission and resource.

    Attributes:
        revision: it takes into account every change up to this one.
    """

    id: str
    verdict: Verdict
    user_id: str
    certificate_id: str
    permission: Permission | None
    resource: str
    time: datetime
    revision: int


class CheckPermission:
    """Answers from what is committed at the moment of asking; no decision is kept."""

    def __init__(
        self,
        facts: FactsReader,
        authenticator: Authenticator,
        access: Access,
        denials: DenialLog,
        *,
        clock: Clock,
        log: LogRefusal,
    ) -> None:
        self._facts = facts
        self._authenticator = authenticator
        self._access = access
        self._denials = denials
        self._clock = clock
        self._log = log

    async def check(self, caller: Caller, question: PermissionQuestion) -> list[Decision]:
        """One decision for each resource, in their order, all at one moment.

        Raises:
            PermissionDenied: the caller is no relying party for one of the resources.
            ResourceExhausted: PASSWORD_CHECKS_BUSY.
            Unavailable: REVISION_NOT_REACHED.
        """
        for resource in question.resources:
            self._access.require(caller, Permission.AUTHORIZE_PEERS, resource)
        # The least one that anything here is read at: the password's hash is read after it, and so are newer facts.
        revision, facts = await self._known(question.fingerprint, question.min_revision)
        outcome = None
        if facts is not None and judge_certificate(facts, self._clock()) is None and question.credentials is not None:
            # The relying party says the address, so what it passes on is counted apart for each relying party. One that
            # does not say it shares one among all its peers.
            outcome = await self._authenticator.credentials_outcome(
                question.credentials, facts.user.id, question.peer_address, relying_party=caller.user_id
            )
            # Checking a password takes a while, in which the certificate may have been revoked.
            facts = await self._facts.peer(question.fingerprint)
        now = self._clock()
        decisions = [
            self._decision(
                caller,
                question,
                facts,
                decide(facts, outcome, question.permission, resource, now),
                permission=question.permission,
                resource=resource,
                now=now,
                revision=revision,
            )
            for resource in question.resources
        ]
        self._log_denials(caller, question, [decision for decision in decisions if not decision.verdict.allowed])
        return decisions

    async def check_peer(self, caller: Caller, question: PeerQuestion) -> Decision:
        """Whether the peer is accepted at all.

        Raises:
            PermissionDenied: the caller is no relying party.
            Unavailable: REVISION_NOT_REACHED.
        """
        self._access.require_some(caller, Permission.AUTHORIZE_PEERS)
        revision, facts = await self._known(question.fingerprint, question.min_revision)
        now = self._clock()
        verdict = decide_on_peer(facts, now)
        decision = self._decision(caller, question, facts, verdict, now=now, revision=revision)
        self._log_denials(caller, question, [] if verdict.allowed else [decision])
        return decision

    async def _known(self, fingerprint: str, min_revision: int) -> tuple[int, PeerFacts | None]:
        """The revision that facts of a peer are read at, and those."""
        known = await self._facts.known(fingerprint)
        if known.revision < min_revision:
            raise _not_reached(known.revision, min_revision)
        return known.revision, known.facts

    def _decision(
        self,
        caller: Caller,
        question: PeerQuestion,
        facts: PeerFacts | None,
        verdict: Verdict,
        *,
        permission: Permission | None = None,
        resource: str = "",
        now: datetime,
        revision: int,
    ) -> Decision:
        user_id = "" if facts is None else facts.user.id
        certificate_id = "" if facts is None else facts.certificate.id
        if verdict.allowed:
            decision_id = new_id(now)
        else:
            subject = Subject(
                user_id=user_id,
                certificate_id=certificate_id,
                permission=permission,
                resource=resource,
                relying_party=caller.user_id,
                peer_address=question.peer_address,
                fingerprint=question.fingerprint,
            )
            decision_id = self._denials.record(verdict, subject, now)
        return Decision(decision_id, verdict, user_id, certificate_id, permission, resource, now, revision)

    def _log_denials(self, caller: Caller, question: PeerQuestion, denied: Sequence[Decision]) -> None:
        """One line for a question, however many resources it is about: lists are filtered by asking about all."""
        if not denied:
            return
        first = denied[0]
        fields = {
            "reason": first.verdict.reason.value,
            "user": user_name(first.user_id),
            "certificate": certificate_name(first.certificate_id),
            "permission": "" if first.permission is None else first.permission.value,
            "resource": first.resource,
            "relying_party": caller.user,
            "peer": question.peer_address,
            "fingerprint": question.fingerprint,
        }
        self._log("peer_denied", fields, {"decision": decision_name(first.id), "more": str(len(denied) - 1)})


def _not_reached(revision: int, wanted: int) -> Unavailable:
    return Unavailable(
        Reason.REVISION_NOT_REACHED,
        f"this service is at revision {revision}, and {wanted} is asked for; try again, and if it lasts: was a backup"
        " restored?",
    )
