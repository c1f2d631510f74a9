"""What a relying party knows of decisions: how far it has followed their changes, and until when it may act on that.

docs/revocation.md has the rules. Nothing here waits, and nothing here speaks to anybody; each method is one step.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from handclasp.serving.clock import Clock

MAX_NAMES = 10_000
"""Of how many names the last change is known. Beyond that, whatever was decided before a forgotten one is worthless."""

MAX_GENERATIONS = 1_000
"""Of how many generations it is known how far they came."""

MAX_PINGS = 1_000
"""How many pings of a stream may be without an answer before the oldest are forgotten."""


class Effect(Enum):
    """What a change does to decisions."""

    GIVEN = "given"
    ALTERED = "altered"
    WITHDRAWN = "withdrawn"
    CREDENTIALS = "credentials"


@dataclass(frozen=True, slots=True)
class Position:
    """A point in the history of changes. `mark` tells histories apart that part after a backup was restored."""

    revision: int
    mark: int


@dataclass(frozen=True, slots=True)
class Change:
    """What happened to a name; all of it, if several changes were joined (rule 17)."""

    name: str
    effects: frozenset[Effect]

    @property
    def takes_away(self) -> bool:
        """Whether a yes that rests on the name has to be asked about anew. One without effects is taken for such."""
        return self.effects != {Effect.GIVEN}


class Knowledge:
    """Changes applied, and the lease.

    Args:
        clock: of the lease.
        max_names: how many names with a change are kept.

    Attributes:
        process_id: of this process, on its streams. Another one once history was lost (rule 12).
        applied: the position up to which all changes are heeded; None until the first reset.
        generation: an answer to a question that was asked in an earlier one is worthless. Streams and resets begin one,
            and so does the first message after the lease was over: the database may have gone back meanwhile.
    """

    def __init__(self, clock: Clock, *, max_names: int = MAX_NAMES) -> None:
        self._clock = clock
        self._max_names = max_names
        self._changed: dict[str, int] = {}  # by revision, the oldest first
        self._floor = 0
        self._lease_end = clock()
        self._pings: dict[int, float] = {}
        self._last_ping = 0
        self.process_id = _new_process_id()
        self.applied: Position | None = None
        self.generation = 0
        self._came_to: dict[int, int] = {}  # revisions by generation, the oldest first

    @property
    def revision(self) -> int:
        """Of the applied position; 0 before there is one."""
        return 0 if self.applied is None else self.applied.revision

    def lease_runs(self) -> bool:
        """Whether the lease runs now, by the clock and nothing else (rule 5). Not to be remembered over an `await`."""
        return self._clock() < self._lease_end

    def since_lease_end(self) -> float:
        """For how many seconds there has been no lease; negative while there is one."""
        return self._clock() - self._lease_end

    def stands(self, revision: int, rests_on: Sequence[str]) -> bool:
        """Whether a yes of that revision, resting on those names, still stands (rule 6). Says nothing of the lease."""
        if revision < self._floor:
            return False
        changed = self._changed
        for name in rests_on:  # noqa: SIM110 a generator takes twice as long, and this is in the way of every call
            if changed.get(name, 0) > revision:
                return False
        return True

    def reached(self, generation: int, revision: int) -> bool:
        """Whether a revision that was read in that generation was applied by its end, unless that is yet to come: if
        not, it may be of a history that was lost since."""
        return generation == self.generation or revision <= self._came_to.get(generation, -1)

    def begin_stream(self) -> None:
        """A new stream has been welcomed. What pings of an earlier one are answered with is worth nothing (rule 2)."""
        self._begin_generation()
        self._pings.clear()

    def ping(self) -> int:
        """The number of a ping that is about to be written. Its lease will count from this moment (rule 1)."""
        self._last_ping += 1
        self._pings[self._last_ping] = self._clock()
        if len(self._pings) > MAX_PINGS:
            del self._pings[next(iter(self._pings))]
        return self._last_ping

    def pong(self, number: int, revision: int, lease: float) -> bool:
        """Takes the answer to a ping of the current stream. Extends the lease only if the revision that it was granted
        under is applied (rule 3).

        Args:
            lease: in seconds.
        Returns:
            Whether it was worth something; it still shortens no lease that runs longer.
        """
        sent_at = self._pings.pop(number, None)
        if sent_at is None or self.applied is None or revision > self.applied.revision:
            return False
        if not self.lease_runs():
            self._begin_generation()
        self._lease_end = max(self._lease_end, sent_at + lease)
        return True

    def end_lease(self) -> None:
        """There is no lease from now on: the service has said so."""
        self._lease_end = min(self._lease_end, self._clock())
        self._pings.clear()

    def apply(self, position: Position, changes: Sequence[Change]) -> None:
        """Heeds the changes up to a position, and only then counts it as applied (rule 4)."""
        if not self.lease_runs():
            self._begin_generation()
        for change in changes:
            if change.takes_away:
                self._note(change.name, position.revision)
        self._advance(position)

    def reset(self, position: Position) -> None:
        """Forgets everything that was decided before. What is applied does not go back by it (rule 4)."""
        self._begin_generation()
        self._changed.clear()
        self._advance(position)
        self._floor = max(self._floor, self.revision)

    def lose_history(self) -> None:
        """What was applied is of a history that the service does not have. Goes on as another process would, which has
        no lease yet (rule 12)."""
        self.end_lease()
        self._begin_generation()
        self.process_id = _new_process_id()
        self.applied = None
        self._changed.clear()
        self._floor = 0

    def _begin_generation(self) -> None:
        self._came_to[self.generation] = self.revision
        if len(self._came_to) > MAX_GENERATIONS:
            del self._came_to[next(iter(self._came_to))]
        self.generation += 1

    def _advance(self, position: Position) -> None:
        if self.applied is None or position.revision >= self.applied.revision:
            self.applied = position

    def _note(self, name: str, revision: int) -> None:
        # Taken out first, so that the oldest change stays the first in the dictionary.
        known = self._changed.pop(name, 0)
        self._changed[name] = max(known, revision)
        while len(self._changed) > self._max_names:
            self._floor = max(self._floor, self._changed.pop(next(iter(self._changed))))


def _new_process_id() -> str:
    return secrets.token_hex(16)
