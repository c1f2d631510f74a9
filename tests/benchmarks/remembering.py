"""How much memory remembered decisions take, in a process that has nothing else to do."""

from __future__ import annotations

import gc
import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection

import psutil

from handclasp.authorization.v1 import decision_pb2
from handclasp.certificate_service.domain.identifiers import new_id
from handclasp.relying_party import EXECUTE_INTEGRATIONS
from handclasp.relying_party.decisions import MAX_DECISIONS, Decisions, Subject
from handclasp.relying_party.judging import judged
from handclasp.relying_party.knowledge import Knowledge, Position
from handclasp.serving.clock import lease_clock, wall_clock
from tests.benchmarks.processes import answer, process

DECISIONS = MAX_DECISIONS
SHARING = (1, 10)
"""How many of them are about each certificate."""

_LEASE_SECONDS = 600.0
_VALIDITY = timedelta(days=90)
_PROFILE = "accessProfiles/regular-user"


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident bytes of a relying party before it remembered anything, and with so many decisions."""

    decisions: int
    before: int
    after: int

    @property
    def per_decision(self) -> float:
        return (self.after - self.before) / self.decisions


async def measure_memory(sharing: int) -> Memory:
    """
    Args:
        sharing: how many decisions are about each certificate, each about another resource.

    Raises:
        CallFailedError: the process ended.
    """
    with process(run_remembering, sharing) as connection:
        found = await answer(connection)
        assert isinstance(found, Memory)
        return found


def run_remembering(connection: Connection, sharing: int) -> None:
    """The process. Says its `Memory` and ends."""
    knowledge = Knowledge(lease_clock)
    knowledge.reset(Position(1_000_000, 1))
    knowledge.pong(knowledge.ping(), 1_000_000, _LEASE_SECONDS)
    decisions = Decisions(knowledge, wall_clock, size=DECISIONS)
    _remember(Decisions(knowledge, wall_clock), 1, sharing)
    before = _resident()
    _remember(decisions, DECISIONS, sharing)
    after = _resident()
    if len(decisions) != DECISIONS:
        raise RuntimeError(f"{len(decisions)} of {DECISIONS} decisions are remembered")
    connection.send(Memory(DECISIONS, before, after))


def _remember(decisions: Decisions, count: int, sharing: int) -> None:
    for peer in range(count // sharing or 1):
        certificate = f"certificates/{new_id(datetime.now(UTC))}"
        for number in range(sharing):
            # As it comes with each call and off the wire: with strings of its own.
            fingerprint = hashlib.sha256(certificate.encode()).hexdigest()
            decision = decision_pb2.Decision.FromString(
                _decision(f"users/user-{peer:06}", certificate, f"integrations/integration-{number}")
            )
            yes = judged(decision, EXECUTE_INTEGRATIONS, decision.resource, asked=wall_clock())
            decisions.keep(Subject(fingerprint, EXECUTE_INTEGRATIONS, decision.resource, None), yes)


def _decision(user: str, certificate: str, resource: str) -> bytes:
    now = datetime.now(UTC)
    decision = decision_pb2.Decision(
        name=f"decisions/{new_id(now)}",
        allowed=True,
        reason=decision_pb2.DECISION_REASON_ALLOWED,
        rule=_PROFILE,
        user=user,
        certificate=certificate,
        permission=EXECUTE_INTEGRATIONS,
        resource=resource,
        revision=1_000_000,
        rests_on=[certificate, user, _PROFILE],
    )
    decision.expire_time.FromDatetime(now + _VALIDITY)
    return decision.SerializeToString()


def _resident() -> int:
    gc.collect()
    return int(psutil.Process().memory_info().rss)
