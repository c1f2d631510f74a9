"""Calls in progress. They end when what they were allowed by is taken away.

docs/revocation.md has the rules.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any

import structlog

from handclasp.errors import HandclaspError, PermissionDenied, Reason, Unauthenticated, Unavailable
from handclasp.relying_party.counters import Counters
from handclasp.relying_party.decisions import Yes
from handclasp.relying_party.judging import Permission
from handclasp.relying_party.knowledge import Change, Effect, Knowledge, Position
from handclasp.serving.call import Call
from handclasp.serving.clock import Clock
from handclasp.serving.peer import Peer

SWEEP_INTERVAL = 0.25
"""Seconds between looks for what has expired, and for a lease that has been over for too long."""

ASKED_AT_ONCE = 16
"""How many questions about calls in progress are open at once."""

MAX_PERMITS = 1_000
"""How much a single call is remembered to have been allowed. A stream may ask about one thing after the other for days;
beyond this, the oldest are no longer asked about anew. It still ends with its certificate and its user."""

_HELD_UP = 4 * SWEEP_INTERVAL
_ASK_AGAIN = 0.5  # seconds
_LOOK_AGAIN = 0.02
"""Seconds between looks whether an answer may be given, once it was found that it may not."""

_WITHDRAWN = "taken away while the call ran: "

_LOG = structlog.stdlib.get_logger(__name__)

Ask = Callable[[Peer, Permission, str], Awaitable[Yes]]
"""As `Asking.anew`."""


@dataclass(slots=True)
class Permit:
    """What a call is allowed by.

    Attributes:
        yes: the last one.
        permission, resource: what it is a yes to.
        filtered: the call only had a list filtered, that resource among others: it ends with its certificate and its
            user, and what becomes of single grants does not matter.
        generation: in which the yes was found good.
        being_asked: somebody asks about it anew at this moment.
    """

    yes: Yes
    permission: Permission
    resource: str
    filtered: bool = False
    generation: int = 0
    being_asked: bool = False


class CallsInProgress:
    """The calls in progress that were allowed something, and what follows when it changes.

    All are looked through at each change that takes something away. There are as many as a server runs at once, so that
    costs less than an index that every call would have to enter.

    Args:
        ask: whether a call may go on.
        grace: for how many seconds calls go on without a lease (rule 8), or while they cannot be asked about.
    """

    def __init__(
        self,
        knowledge: Knowledge,
        clock: Clock,
        wall_clock: Clock,
        counters: Counters,
        ask: Ask,
        *,
        grace: float,
        asked_at_once: int = ASKED_AT_ONCE,
    ) -> None:
        self._knowledge = knowledge
        self._clock = clock
        self._wall_clock = wall_clock
        self._counters = counters
        self._ask = ask
        self._grace = grace
        self._asking = asyncio.Semaphore(asked_at_once)
        self._unanswered = False
        """Whether there was no answer to the last question."""
        self._looked = self._resumed = clock()
        self._permits: dict[Call, dict[tuple[Permission, str, bool], Permit]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._permits)

    def permit(self, call: Call, permit: Permit) -> None:
        """Registers what a call is allowed by. To be called in the step in which the yes was found good."""
        permits = self._permits.get(call)
        if permits is None:
            if call.finished or call.ended:
                return
            permits = self._permits[call] = {}
            call.at_end = self._forget
            call.gate = self
        permit.generation = self._knowledge.generation
        permits[permit.permission, "" if permit.filtered else permit.resource, permit.filtered] = permit
        if len(permits) > MAX_PERMITS:
            del permits[next(iter(permits))]

    def is_open(self, call: Call) -> bool:
        """Whether an answer of a call may be given at this very moment (rule 8b): a lease runs, by the clock, and
        nothing that it was allowed by has changed up to what is applied."""
        permits = self._permits.get(call)
        if permits is None or call.withdrawn is not None:
            return False
        now = self._wall_clock()
        for permit in permits.values():
            if permit.being_asked or (permit.yes.expires is not None and permit.yes.expires <= now):
                return False
            if not self._is_of_this_history(permit):
                self._reconsider(call, permit)
                return False
        # Last, so that nothing is between this look at the clock and what is done with the answer.
        return self._knowledge.lease_runs()

    async def wait(self, call: Call) -> None:
        """Returns once `is_open` holds; at that moment.

        Raises:
            PermissionDenied: AUTHORIZATION_WITHDRAWN.
            Unavailable: AUTHORIZER_UNAVAILABLE, there was no lease within the grace.
        """
        deadline = self._clock() + self._grace
        while not self.is_open(call):
            self._end_if_expired(call)
            if call.withdrawn is not None:
                raise call.withdrawn
            if self._clock() >= deadline:
                raise _cut_off()
            await asyncio.sleep(_LOOK_AGAIN)

    def welcomed(self) -> None:
        """Nothing follows from a stream that begins."""

    def changed(self, position: Position, changes: Sequence[Change]) -> bool:
        """Ends calls that rest on what was withdrawn, and asks anew about those that rest on what was altered
        (rule 17). That is not waited for."""
        withdrawn: set[str] = set()
        credentials: set[str] = set()
        altered: set[str] = set()
        for change in changes:
            if Effect.WITHDRAWN in change.effects:
                withdrawn.add(change.name)
            if Effect.CREDENTIALS in change.effects:
                credentials.add(change.name)
            if change.takes_away and (Effect.ALTERED in change.effects or not change.effects):
                altered.add(change.name)
        if not (withdrawn or credentials or altered):
            return False
        for call, permits in list(self._permits.items()):
            for permit in permits.values():
                # One that was decided later takes the changes into account.
                if permit.yes.revision >= position.revision and self._is_of_this_history(permit):
                    continue
                names = permit.yes.rests_on
                if not withdrawn.isdisjoint(names):
                    self._end(call, _withdrawn("what it was allowed by was withdrawn"))
                elif call.peer.credentials is not None and not credentials.isdisjoint(names):
                    self._end(call, _withdrawn("the password that was sent along was changed"))
                elif not permit.filtered and not altered.isdisjoint(names):
                    self._reconsider(call, permit)
        return False

    def was_reset(self) -> bool:
        """Asks anew about every call in progress. It is not waited for."""
        for call, permits in list(self._permits.items()):
            for permit in permits.values():
                # Its revision may be of another history, and must not count against changes of this one.
                permit.yes = replace(permit.yes, revision=min(permit.yes.revision, self._knowledge.revision))
                self._reconsider(call, permit)
        return False

    def look(self) -> None:
        """Ends calls whose certificate has expired by now; all, if the lease has been over for the grace (rule 8).

        To be called every `SWEEP_INTERVAL`. If it was not, the process was frozen, or its event loop held up: no call
        got further meanwhile, and the grace counts from when they go on. Without a lease none of them answers.
        """
        now = self._clock()
        if now - self._looked > _HELD_UP:
            self._resumed = now
        self._looked = now
        if self._permits and min(self._knowledge.since_lease_end(), now - self._resumed) > self._grace:
            for call in list(self._permits):
                self._end(call, _cut_off())
            return
        for call in list(self._permits):
            self._end_if_expired(call)

    async def close(self) -> None:
        """Stops asking about calls, and waits for none."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _end_if_expired(self, call: Call) -> None:
        now = self._wall_clock()
        permits = self._permits.get(call, {}).values()
        if any(permit.yes.expires is not None and permit.yes.expires <= now for permit in permits):
            self._end(call, _withdrawn("the certificate has expired"))

    def _is_of_this_history(self, permit: Permit) -> bool:
        """Whether what its yes had taken into account was applied, or is yet to come. If it was not by the end of its
        generation, it may be of a history that was lost since, and must not count against changes of this one."""
        return self._knowledge.reached(permit.generation, permit.yes.revision)

    def _forget(self, call: Call) -> None:
        self._permits.pop(call, None)

    def _end(self, call: Call, error: HandclaspError) -> None:
        # Out of the register at once, so that it is ended once.
        if self._permits.pop(call, None) is not None:
            # At once, too: its handler may be about to answer, before the task below has its turn.
            call.withdrawn = error
            self._spawn(self._ending(call, error))

    async def _ending(self, call: Call, error: HandclaspError) -> None:
        if await call.end(error):
            self._counters.aborted += 1
            _LOG.info(
                "call_aborted",
                method=call.method,
                reason=error.reason,
                why=error.message.removeprefix(_WITHDRAWN).partition(";")[0],
                user=call.user,
                fingerprint=call.peer.fingerprint,
                **error.metadata,
            )

    def _reconsider(self, call: Call, permit: Permit) -> None:
        if not permit.being_asked:
            permit.being_asked = True
            self._spawn(self._reconsidering(call, permit))

    async def _reconsidering(self, call: Call, permit: Permit) -> None:
        deadline = self._clock() + self._grace
        try:
            while call in self._permits:
                try:
                    async with self._asking:
                        if self._unanswered and self._clock() >= deadline:
                            # Its turn came too late; of many calls, each would take as long to learn the same.
                            self._end(call, _cut_off())
                            return
                        permit.yes = await self._ask(call.peer, permit.permission, permit.resource)
                        permit.generation = self._knowledge.generation
                except (Unauthenticated, PermissionDenied) as refusal:
                    self._unanswered = False
                    if permit.filtered and isinstance(refusal, PermissionDenied):
                        # For want of a grant alone, so certificate and user are as good as before.
                        permit.yes = replace(permit.yes, revision=min(permit.yes.revision, self._knowledge.revision))
                        permit.generation = self._knowledge.generation
                        return
                    decision = {name: value for name, value in refusal.metadata.items() if name == "decision"}
                    self._end(call, _withdrawn("it was asked about anew, and is not allowed any more", decision))
                except HandclaspError as error:
                    self._unanswered = isinstance(error, Unavailable)
                    if self._clock() >= deadline:
                        self._end(call, _cut_off())
                    await asyncio.sleep(_ASK_AGAIN)
                else:
                    self._unanswered = False
                    return
        finally:
            permit.being_asked = False

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _LOG.error("call_in_progress_not_followed", exc_info=error)


def _withdrawn(why: str, metadata: dict[str, str] | None = None) -> PermissionDenied:
    return PermissionDenied(
        Reason.AUTHORIZATION_WITHDRAWN,
        f"{_WITHDRAWN}{why}; part of it may have been carried out",
        metadata=metadata,
    )


def _cut_off() -> Unavailable:
    return Unavailable(
        Reason.AUTHORIZER_UNAVAILABLE,
        "whether this is still allowed cannot be found out any more, so the call was ended; part of it may have been"
        " carried out; try again, and if it stays so tell whoever runs this server",
    )
