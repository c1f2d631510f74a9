"""Asks the certificate service. Callers who ask the same at the same time share a question.

docs/revocation.md has the rules.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import grpc

from handclasp.authorization.v1 import decision_pb2, permission_pb2
from handclasp.certificates.v1 import certificate_service_pb2 as messages
from handclasp.relying_party.counters import Counters
from handclasp.relying_party.decisions import Subject
from handclasp.relying_party.faults import (
    ConnectionReplacedError,
    nonsense,
    not_asked,
    unanswered,
    unless_replaced,
)
from handclasp.relying_party.judging import Permission
from handclasp.relying_party.knowledge import Knowledge
from handclasp.relying_party.link import Link
from handclasp.serving.clock import Clock
from handclasp.serving.peer import Peer

CHUNK = 100
"""How many resources one BatchCheckPermissions takes."""

_Key: TypeAlias = tuple[Subject, str, int]


@dataclass(frozen=True, slots=True)
class Answer:
    """What the service said.

    Attributes:
        generation: in which it was asked; worthless in a later one.
        asked: when, by this server's wall clock.
    """

    decision: decision_pb2.Decision
    generation: int
    asked: float


class Questions:
    """Questions over a link. Each carries the least revision that its answer must have (rule 17).

    Args:
        timeout: in seconds, for one question.
    """

    def __init__(
        self, link: Link, knowledge: Knowledge, wall_clock: Clock, counters: Counters, *, timeout: float
    ) -> None:
        self._link = link
        self._knowledge = knowledge
        self._wall_clock = wall_clock
        self._counters = counters
        self._timeout = timeout
        self._open: dict[_Key, asyncio.Task[Answer]] = {}

    async def ask(self, subject: Subject, peer: Peer, permission: Permission, resource: str) -> Answer:
        """One question, which may be shared with others who began to ask it before. Without a permission, it is whether
        the peer is accepted at all.

        Raises:
            HandclaspError: there is no answer.
        """
        key = (subject, peer.address, self._knowledge.generation)
        task = self._open.get(key)
        if task is None or task.done():
            # One that is done just now, and not taken out yet, would have the same answer however often it is asked.
            task = self._open[key] = asyncio.create_task(self._asked_once(peer, permission, resource))
            task.add_done_callback(partial(self._close_question, key))
        # Whoever leaves does not take the answer away from the others.
        return await asyncio.shield(task)

    async def ask_about(self, peer: Peer, permission: Permission, resources: Sequence[str]) -> list[Answer]:
        """One question for each hundred resources, shared with nobody. The answers are in the order of the resources.

        Raises:
            HandclaspError: there is no answer.
        """
        answers: list[Answer] = []
        for start in range(0, len(resources), CHUNK):
            chunk = resources[start : start + CHUNK]
            generation, asked = self._knowledge.generation, self._wall_clock()
            request = messages.BatchCheckPermissionsRequest(
                peer_certificate=peer.certificate_der or b"",
                basic_credentials=_credentials(peer),
                permission=permission,
                resources=chunk,
                peer_address=peer.address,
                min_revision=self._knowledge.revision,
            )
            response = await self._answered(self._link.certificates.BatchCheckPermissions, request)
            if len(response.decisions) != len(chunk):
                raise nonsense(f"{len(response.decisions)} decisions for {len(chunk)} resources")
            answers += [Answer(decision, generation, asked) for decision in response.decisions]
        return answers

    async def close(self) -> None:
        """Gives up what is open."""
        open_ = list(self._open.values())
        for task in open_:
            task.cancel()
        await asyncio.gather(*open_, return_exceptions=True)

    def _close_question(self, key: _Key, task: asyncio.Task[Answer]) -> None:
        if self._open.get(key) is task:
            del self._open[key]
        if not task.cancelled():
            task.exception()  # Looked at, since all who waited for it may have left.

    async def _asked_once(self, peer: Peer, permission: Permission, resource: str) -> Answer:
        generation, asked = self._knowledge.generation, self._wall_clock()
        if permission == permission_pb2.PERMISSION_UNSPECIFIED:
            who = messages.CheckPeerRequest(
                peer_certificate=peer.certificate_der or b"",
                peer_address=peer.address,
                min_revision=self._knowledge.revision,
            )
            return Answer(await self._answered(self._link.certificates.CheckPeer, who), generation, asked)
        request = messages.CheckPermissionRequest(
            peer_certificate=peer.certificate_der or b"",
            basic_credentials=_credentials(peer),
            permission=permission,
            resource=resource,
            peer_address=peer.address,
            min_revision=self._knowledge.revision,
        )
        decision = await self._answered(self._link.certificates.CheckPermission, request)
        return Answer(decision, generation, asked)

    async def _answered(self, method: Callable[..., Awaitable[Any]], request: object) -> Any:
        self._counters.asked += 1
        try:
            return await unless_replaced(method(request, timeout=self._timeout))
        except grpc.aio.AioRpcError as error:
            raise unanswered(error) from None
        except ConnectionReplacedError:
            raise not_asked() from None


def _credentials(peer: Peer) -> decision_pb2.BasicCredentials | None:
    if peer.credentials is None:
        return None
    return decision_pb2.BasicCredentials(username=peer.credentials.username, password=peer.credentials.password)
