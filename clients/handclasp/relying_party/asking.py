"""Finds a yes that may be used now: from memory where that is safe, else by asking the certificate service.

Whatever goes wrong while asking is UNAVAILABLE, and never a yes. docs/revocation.md has the rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from handclasp.authorization.v1 import permission_pb2
from handclasp.errors import HandclaspError, PermissionDenied, Reason, Unauthenticated, Unavailable
from handclasp.relying_party.counters import Counters
from handclasp.relying_party.decisions import CredentialsHash, Decisions, Subject, Yes
from handclasp.relying_party.faults import not_asked
from handclasp.relying_party.judging import Permission, judged
from handclasp.relying_party.knowledge import Knowledge
from handclasp.relying_party.questions import Answer, Questions
from handclasp.relying_party.watch import Watch
from handclasp.serving.peer import Peer

ATTEMPTS = 3
"""How often a question is asked whose answers are overtaken by changes (rule 17)."""

ACCEPTED = permission_pb2.PERMISSION_UNSPECIFIED
"""Stands for the question whether a peer is accepted at all. The service refuses it where a permission is required."""

LONGEST_RESOURCE = 256
"""Characters; the certificate service takes no more."""


@dataclass(frozen=True, slots=True)
class Filtered:
    """Which of several resources a peer may act on.

    Attributes:
        yeses: for each resource; None if not.
        seen: the last answer that it took, if any.
    """

    yeses: Sequence[Yes | None]
    seen: Answer | None


class Asking:
    """Every yes that is returned here may be used then, and until something is awaited (rules 5, 6).

    Args:
        lease_wait: how many seconds a caller waits for a lease if there is none.
    """

    def __init__(
        self,
        knowledge: Knowledge,
        decisions: Decisions,
        *,
        questions: Questions,
        watch: Watch,
        counters: Counters,
        lease_wait: float,
    ) -> None:
        self._knowledge = knowledge
        self._decisions = decisions
        self._questions = questions
        self._watch = watch
        self._counters = counters
        self._lease_wait = lease_wait
        self._hash = CredentialsHash()

    async def accepted(self, peer: Peer) -> Yes:
        """Raises what `Authorizer.authenticate` does."""
        subject = Subject(_fingerprint(peer), ACCEPTED, "", None)
        yes = self._decisions.find(subject)
        return await self._ask(subject, peer, ACCEPTED, "") if yes is None else yes

    async def one(self, peer: Peer, permission: Permission, resource: str) -> Yes:
        """Raises what `Authorizer.require` does."""
        subject = self._subject(peer, permission, resource)
        yes = self._decisions.find(subject)
        if yes is None:
            return await self._ask(subject, peer, permission, resource)
        self._counters.hits += 1
        return yes

    async def anew(self, peer: Peer, permission: Permission, resource: str) -> Yes:
        """What a call was allowed by, asked once more: `ACCEPTED` included."""
        return await (self.accepted(peer) if permission == ACCEPTED else self.one(peer, permission, resource))

    async def several(self, peer: Peer, permission: Permission, resources: Sequence[str]) -> Filtered:
        """Raises what `Authorizer.allowed` does."""
        subjects = [self._subject(peer, permission, resource) for resource in resources]
        yeses: dict[int, Yes] = {}
        nos: set[int] = set()
        seen: Answer | None = None
        generation = self._knowledge.generation
        for attempt in range(ATTEMPTS + 1):
            # From here to the return nothing is awaited.
            if self._knowledge.generation != generation:
                generation = self._knowledge.generation
                yeses.clear()
            for index, subject in enumerate(subjects):
                if index not in nos and (index not in yeses or not self._decisions.usable(yeses[index])):
                    found = self._decisions.find(subject)
                    if found is None:
                        yeses.pop(index, None)
                    else:
                        yeses[index] = found
            missing = [index for index in range(len(subjects)) if index not in nos and index not in yeses]
            if not missing:
                self._counters.hits += len(subjects) if attempt == 0 else 0
                return Filtered([yeses.get(index) for index in range(len(subjects))], seen)
            if attempt == ATTEMPTS or not await self._watch.wait_for_lease(self._lease_wait):
                break
            self._counters.asked_again += attempt > 0
            answers = await self._questions.ask_about(peer, permission, [resources[index] for index in missing])
            for index, answer in zip(missing, answers, strict=True):
                seen = answer
                try:
                    yes = judged(answer.decision, permission, resources[index], asked=answer.asked)
                except PermissionDenied:
                    nos.add(index)
                else:
                    if self._take(subjects[index], yes, answer):
                        yeses[index] = yes
        raise not_asked()

    async def _ask(self, subject: Subject, peer: Peer, permission: Permission, resource: str) -> Yes:
        try:
            return await self._ask_until_usable(subject, peer, permission, resource)
        except Unavailable:
            self._counters.unanswered += 1
            raise
        except HandclaspError:
            self._counters.refused += 1
            raise

    async def _ask_until_usable(self, subject: Subject, peer: Peer, permission: Permission, resource: str) -> Yes:
        for attempt in range(ATTEMPTS):
            if not await self._watch.wait_for_lease(self._lease_wait):
                break
            self._counters.asked_again += attempt > 0
            revision = self._knowledge.revision
            answer = await self._questions.ask(subject, peer, permission, resource)
            try:
                yes = judged(answer.decision, permission, resource, asked=answer.asked)
            except HandclaspError:
                if answer.decision.revision < revision and attempt < ATTEMPTS - 1:
                    # Of a question that somebody else asked before what is applied now; it may have been given since.
                    continue
                raise
            # Each caller looks for itself, those who share a question as well (rule 6).
            if self._take(subject, yes, answer):
                return yes
        raise not_asked()

    def _take(self, subject: Subject, yes: Yes, answer: Answer) -> bool:
        """Remembers a yes, if it may be used at this very moment; and says whether that is so.

        Raises:
            Unauthenticated: it has ended by itself, and would however often it is asked for.
        """
        if answer.generation != self._knowledge.generation:
            return False
        if self._decisions.usable(yes):
            self._decisions.keep(subject, yes)
            return True
        if self._decisions.expired(yes):
            raise Unauthenticated(
                Reason.CERTIFICATE_NOT_ACCEPTED,
                "the client certificate has expired by this server's clock; have a new one issued",
            )
        return False

    def _subject(self, peer: Peer, permission: Permission, resource: str) -> Subject:
        fingerprint = _fingerprint(peer)
        if permission == ACCEPTED:
            # Left out by mistake, it must not be taken for the question whether the peer is accepted.
            raise PermissionDenied(Reason.ACCESS_DENIED, "no permission is named; nobody holds none")
        if not 0 < len(resource) <= LONGEST_RESOURCE:
            raise PermissionDenied(
                Reason.ACCESS_DENIED, f"a resource has 1 to {LONGEST_RESOURCE} characters; nobody may act on this one"
            )
        return Subject(fingerprint, permission, resource, self._hash(peer.credentials))


def _fingerprint(peer: Peer) -> str:
    if peer.fingerprint is None:
        raise Unauthenticated(
            Reason.CREDENTIALS_MISSING, "no client certificate was presented; call with one, over mutual TLS"
        )
    return peer.fingerprint
