"""The watch of a certificate service that does as a test tells it to."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import grpc

from handclasp.authorization.v1 import authorization_service_pb2 as messages
from handclasp.authorization.v1.authorization_service_pb2_grpc import AuthorizationServiceServicer
from handclasp.authorization.v1.refusal_pb2 import Refusal

Effect: TypeAlias = "messages.Change.Effect.ValueType"
Response = messages.WatchAuthorizationResponse
GIVEN = messages.Change.EFFECT_GIVEN
ALTERED = messages.Change.EFFECT_ALTERED
WITHDRAWN = messages.Change.EFFECT_WITHDRAWN
CREDENTIALS = messages.Change.EFFECT_CREDENTIALS


def mark_of(revision: int, history: str = "") -> int:
    """The mark that a revision has here, in one history or another."""
    return int.from_bytes(hashlib.sha256(f"{history}{revision}".encode()).digest()[:8], "big")


@dataclass(eq=False)
class ScriptedStream:
    """One stream, and what came over it."""

    context: Any
    start: messages.WatchAuthorizationRequest.Start
    outgoing: asyncio.Queue[Response | grpc.StatusCode] = field(default_factory=asyncio.Queue)
    pings: list[messages.WatchAuthorizationRequest.Ping] = field(default_factory=list)
    acknowledged: int = 0
    ended: bool = False

    def send(self, message: Response) -> None:
        self.outgoing.put_nowait(message)

    def pong(self, number: int, revision: int, lease: float) -> None:
        pong = Response.Pong(number=number, revision=revision)
        pong.lease.FromNanoseconds(round(lease * 1e9))
        self.send(Response(pong=pong))

    def end(self, code: grpc.StatusCode) -> None:
        self.outgoing.put_nowait(code)


@dataclass(eq=False)
class ScriptedWatches(AuthorizationServiceServicer):
    """Keeps to the protocol unless a test has it do otherwise."""

    async def ExplainDecision(self, _request: Any, context: Any) -> Any:  # noqa: N802
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "nobody asks here")

    async def ListRefusals(self, _request: Any, context: Any) -> Any:  # noqa: N802
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "nobody asks here")

    async def ReportRefusals(self, request: messages.ReportRefusalsRequest, _context: Any) -> Any:  # noqa: N802
        self.reported += request.refusals
        return messages.ReportRefusalsResponse()

    lease: float = 2.0
    ping_interval: float = 0.1
    revision: int = 10
    history: str = ""
    """Marks differ between histories."""
    answers: Callable[[ScriptedStream, messages.WatchAuthorizationRequest.Ping], bool] | None = None
    """Asked about each ping; False for no pong from here."""
    silent: bool = False
    """Whether changes are kept from the streams, as if they were late."""
    refusal: grpc.StatusCode | None = None
    remembers: int = 0
    """Below this revision streams do not resume."""
    streams: list[ScriptedStream] = field(default_factory=list)
    reported: list[Refusal] = field(default_factory=list)
    changes: list[tuple[int, list[messages.Change]]] = field(default_factory=list)

    @property
    def stream(self) -> ScriptedStream:
        """The newest one."""
        return self.streams[-1]

    @property
    def live(self) -> list[ScriptedStream]:
        return [stream for stream in self.streams if not stream.ended]

    def position(self, revision: int | None = None) -> messages.Position:
        wanted = self.revision if revision is None else revision
        return messages.Position(revision=wanted, mark=mark_of(wanted, self.history))

    def push(self, *changes: tuple[str, Effect]) -> int:
        """Something changes; the streams are told. Returns the revision."""
        self.revision += 1
        told = [messages.Change(name=name, effects=[effect]) for name, effect in changes]
        self.changes.append((self.revision, told))
        if not self.silent:
            for stream in self.live:
                stream.send(self.as_message(self.revision, told))
        return self.revision

    async def change(self, *changes: tuple[str, Effect]) -> int:
        """The same, and returns once every live stream has acknowledged it, as a barrier does."""
        revision = self.push(*changes)
        await self.acknowledgement(revision)
        return revision

    async def acknowledgement(self, revision: int) -> None:
        while not self.live or any(stream.acknowledged < revision for stream in self.live):  # noqa: ASYNC110
            await asyncio.sleep(0.005)

    def as_message(self, revision: int, changes: list[messages.Change]) -> Response:
        return Response(changes=Response.Changes(position=self.position(revision), changes=changes))

    async def WatchAuthorization(  # type: ignore[override]  # noqa: N802 - written by hand, not generated
        self, _requests: Any, context: Any
    ) -> None:
        first = await context.read()
        stream = ScriptedStream(context, first.start)
        if self.refusal is not None:
            await context.abort(self.refusal, "told to refuse")
        self.streams.append(stream)
        welcome = Response.Welcome()
        welcome.ping_interval.FromNanoseconds(round(self.ping_interval * 1e9))
        welcome.lease.FromNanoseconds(round(self.lease * 1e9))
        stream.send(Response(welcome=welcome))
        self._begin(stream)
        reading = asyncio.create_task(self._read(stream))
        try:
            while True:
                message = await stream.outgoing.get()
                if isinstance(message, grpc.StatusCode):
                    if message is grpc.StatusCode.OK:
                        return
                    await context.abort(message, "told to end")
                await context.write(message)
        finally:
            stream.ended = True
            reading.cancel()

    def _begin(self, stream: ScriptedStream) -> None:
        applied = stream.start.applied
        if applied.revision and applied.revision > self.revision:
            stream.send(Response(reset=Response.Reset(position=self.position(), history_lost=True)))
        elif applied.revision < max(self.remembers, 1) or applied != self.position(applied.revision):
            stream.send(Response(reset=Response.Reset(position=self.position())))
        else:
            stream.acknowledged = applied.revision
            if not self.silent:
                for revision, changes in self.changes:
                    if revision > applied.revision:
                        stream.send(self.as_message(revision, changes))

    async def _read(self, stream: ScriptedStream) -> None:
        while (message := await stream.context.read()) is not grpc.aio.EOF:
            if message.WhichOneof("message") == "ping":
                stream.pings.append(message.ping)
                stream.acknowledged = max(stream.acknowledged, message.ping.acknowledged_revision)
                if self.answers is None or self.answers(stream, message.ping):
                    stream.pong(message.ping.number, self.revision, self.lease)
            else:
                stream.acknowledged = max(stream.acknowledged, message.acknowledgement.revision)
