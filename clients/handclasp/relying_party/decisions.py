"""Remembers what was allowed. Only a yes is remembered: each no goes on record at the certificate service."""

from __future__ import annotations

import hashlib
import secrets
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from handclasp.relying_party.knowledge import Knowledge
from handclasp.serving.clock import Clock
from handclasp.serving.peer import BasicCredentials

MAX_DECISIONS = 100_000
"""How many are remembered by default, at half a kilobyte each, or one if no two are of one peer. The longest unused
goes first."""


@dataclass(frozen=True, slots=True)
class Allowed:
    """A yes, and whom it is for.

    Args:
        user: `users/{user}` that the peer acts as.
        certificate: `certificates/{certificate}` that it presented.
        decision: `decisions/{decision}`.
    """

    user: str
    certificate: str
    decision: str


@dataclass(frozen=True, slots=True)
class Yes:
    """A yes with what it takes to tell whether it still stands.

    Args:
        revision: of the decision.
        rests_on: the names of all that it rests on.
        expires: when it ends by itself, in seconds since 1970; None if that was not said.
        ahead: if it is remembered since before the decision's revision was applied: the generation then, and that
            revision. None otherwise.
    """

    allowed: Allowed
    revision: int
    rests_on: tuple[str, ...]
    expires: float | None
    ahead: tuple[int, int] | None = None


class Subject(NamedTuple):
    """What a decision is about.

    Args:
        fingerprint: of the peer's leaf.
        permission: the number of the permission.
        credentials: a keyed hash of the credentials that were sent along; None if none were.
    """

    fingerprint: str
    permission: int
    resource: str
    credentials: bytes | None


class CredentialsHash:
    """Hashes credentials with a key that only this process has, so that none are kept."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)

    def __call__(self, credentials: BasicCredentials | None) -> bytes | None:
        if credentials is None:
            return None
        username = credentials.username.encode("utf-8", "surrogatepass")
        password = credentials.password.encode("utf-8", "surrogatepass")
        text = len(username).to_bytes(8, "big") + username + password
        return hashlib.blake2b(text, digest_size=16, key=self._key).digest()


class Decisions:
    """The yeses that are remembered.

    Args:
        wall_clock: for what expires.
        size: how many at most; 0 for none.
    """

    def __init__(self, knowledge: Knowledge, wall_clock: Clock, *, size: int = MAX_DECISIONS) -> None:
        self._knowledge = knowledge
        self._wall_clock = wall_clock
        self._size = size
        self._kept: dict[Subject, Yes] = {}  # the longest unused first
        self._shared: dict[tuple[str, ...], tuple[str, ...]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def usable(self, yes: Yes) -> bool:
        """Whether a yes may be used at this very moment (rules 5, 6): not to be remembered over an `await`."""
        return (
            self._knowledge.stands(yes.revision, yes.rests_on)
            and (yes.expires is None or self._wall_clock() < yes.expires)
            and self._knowledge.lease_runs()
        )

    def expired(self, yes: Yes) -> bool:
        """Whether what a yes rests on has ended by itself."""
        return yes.expires is not None and self._wall_clock() >= yes.expires

    def find(self, subject: Subject) -> Yes | None:
        """A yes that may be used at this very moment, if one is remembered."""
        yes = self._kept.pop(subject, None)
        if yes is None:
            return None
        if not self._knowledge.stands(yes.revision, yes.rests_on):
            return None
        if yes.ahead is not None and not self._knowledge.reached(*yes.ahead):
            return None
        if yes.expires is None or self._wall_clock() >= yes.expires:
            return None
        self._kept[subject] = yes
        # Last, so that nothing is between this look at the clock and what the caller does with the answer.
        return yes if self._knowledge.lease_runs() else None

    def keep(self, subject: Subject, yes: Yes) -> None:
        """Remembers a yes that is usable now. One that does not say when it ends is not kept."""
        if self._size == 0 or yes.expires is None:
            return
        # It may be newer than what is applied. What comes up to its own revision then counts against it, too: that is a
        # question more, and no trust in a revision that might be of another history. If it is, nothing may ever come:
        # so it has to be applied while there is no doubt that the history is the same.
        revision = min(yes.revision, self._knowledge.revision)
        ahead = (self._knowledge.generation, yes.revision) if yes.revision > revision else None
        names = self._share(yes.rests_on)
        given = yes.allowed
        allowed = Allowed(_same(given.user, names), _same(given.certificate, names), given.decision)
        shared = subject._replace(fingerprint=sys.intern(subject.fingerprint), resource=sys.intern(subject.resource))
        self._kept.pop(shared, None)
        self._kept[shared] = Yes(allowed, revision, names, yes.expires, ahead)
        while len(self._kept) > self._size:
            del self._kept[next(iter(self._kept))]

    def forget(self) -> None:
        """Forgets all."""
        self._kept.clear()
        self._shared.clear()

    def _share(self, rests_on: tuple[str, ...]) -> tuple[str, ...]:
        """The same names as one object, since a peer's decisions mostly rest on the same."""
        if len(self._shared) > self._size:
            self._shared.clear()
        return self._shared.setdefault(rests_on, rests_on)


def _same(name: str, names: Sequence[str]) -> str:
    """The name as it is among those, so that it is kept once."""
    for one in names:
        if one == name:
            return one
    return name
