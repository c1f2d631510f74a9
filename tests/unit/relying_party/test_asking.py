"""Who shares a question, and what comes of answers that cannot be used."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from handclasp.authorization.v1 import decision_pb2
from handclasp.certificates.v1 import certificate_service_pb2 as messages
from handclasp.errors import PermissionDenied, Unauthenticated
from handclasp.relying_party import EXECUTE_INTEGRATIONS
from handclasp.relying_party.asking import ACCEPTED, Asking
from handclasp.relying_party.counters import Counters
from handclasp.relying_party.judging import Permission
from handclasp.relying_party.knowledge import Change, Effect, Position
from handclasp.relying_party.questions import Questions
from handclasp.serving.peer import Peer
from tests.unit.relying_party.test_decisions import ALICE, RESTS_ON, Memory

EXPIRES = 2000
PEER = Peer("127.0.0.1", b"leaf", None)


class Service:
    """Says yes at the revision that it is at, once it is let. It is its own stub, link and watch."""

    def __init__(self) -> None:
        self.revision = 10
        self.gate = asyncio.get_running_loop().create_future()
        self.certificates: Any = self

    async def CheckPermission(  # noqa: N802
        self, request: messages.CheckPermissionRequest, **_: Any
    ) -> decision_pb2.Decision:
        answer = self._yes(request.permission, request.resource)
        await self.gate
        return answer

    async def BatchCheckPermissions(  # noqa: N802
        self, request: messages.BatchCheckPermissionsRequest, **_: Any
    ) -> messages.BatchCheckPermissionsResponse:
        return messages.BatchCheckPermissionsResponse(
            decisions=[self._yes(request.permission, resource) for resource in request.resources]
        )

    async def wait_for_lease(self, _timeout: float) -> bool:
        return True

    def _yes(self, permission: Permission, resource: str) -> decision_pb2.Decision:
        return decision_pb2.Decision(
            allowed=True,
            reason=decision_pb2.DECISION_REASON_ALLOWED,
            revision=self.revision,
            permission=permission,
            resource=resource,
            rests_on=RESTS_ON,
            user=ALICE.user,
            certificate=ALICE.certificate,
            expire_time=Timestamp(seconds=EXPIRES),
        )


def asking_of(service: Any, memory: Memory, counters: Counters) -> Asking:
    questions = Questions(service, memory.knowledge, memory.wall, counters, timeout=5)
    return Asking(
        memory.knowledge, memory.decisions, questions=questions, watch=service, counters=counters, lease_wait=1
    )


async def test_who_comes_at_the_moment_of_an_answer_asks_anew() -> None:
    memory, counters = Memory(), Counters()
    service = Service()
    asking = asking_of(service, memory, counters)
    moment = asyncio.get_running_loop().create_future()

    async def late() -> None:
        await moment
        await asking.one(PEER, EXECUTE_INTEGRATIONS, "orders/get")

    first = asyncio.create_task(asking.one(PEER, EXECUTE_INTEGRATIONS, "orders/get"))
    second = asyncio.create_task(late())
    while not counters.asked:  # noqa: ASYNC110 the tasks that ask are the only other ones
        await asyncio.sleep(0)
    # The answer that is on its way has been overtaken.
    service.revision = 11
    memory.knowledge.apply(Position(11, 2), [Change("users/alice", frozenset({Effect.ALTERED}))])
    service.gate.set_result(None)
    moment.set_result(None)
    await asyncio.gather(first, second)
    assert counters.asked > 1


async def test_a_certificate_that_has_expired_by_the_clock_here_is_told_of_lists_as_well() -> None:
    memory, service = Memory(), Service()
    service.gate.set_result(None)
    asking = asking_of(service, memory, Counters())
    memory.wall.now = EXPIRES + 1.0
    for asked in (
        asking.one(PEER, EXECUTE_INTEGRATIONS, "orders/get"),
        asking.several(PEER, EXECUTE_INTEGRATIONS, ["orders/get", "orders/put"]),
    ):
        with pytest.raises(Unauthenticated, match="has expired by this server's clock"):
            await asked


async def test_a_permission_that_is_left_out_is_held_by_nobody() -> None:
    """It stands for the question whether a peer is accepted, and must not be taken for it."""
    service = Service()
    asking = asking_of(service, Memory(), Counters())
    with pytest.raises(PermissionDenied):
        await asking.one(PEER, ACCEPTED, "orders/1")
    with pytest.raises(PermissionDenied):
        await asking.several(PEER, ACCEPTED, ["orders/1"])
