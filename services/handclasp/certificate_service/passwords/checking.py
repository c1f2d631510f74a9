"""Checks Basic credentials: throttled, in constant time for unknown users, and once for equal concurrent attempts."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TypeAlias

from handclasp.certificate_service.domain.users import normalize_password
from handclasp.certificate_service.passwords.guesses import Guess, Guesses, Refused, Source
from handclasp.certificate_service.passwords.hashing import Argon2
from handclasp.certificate_service.passwords.queue import PasswordQueue
from handclasp.certificate_service.passwords.throttle import source_of
from handclasp.errors import ResourceExhausted


class Outcome(StrEnum):
    """What became of a password; of equal ones at the same time it is one."""

    RIGHT = "right"
    WRONG = "wrong"
    THROTTLED = "throttled"
    """Not looked at, since there were too many wrong ones before."""
    BUSY = "busy"
    """Not looked at, since too many waited."""
    DROPPED = "dropped"
    """Not looked at, since nobody waited for it any more."""
    FAILED = "failed"
    """The database did not say what to compare with."""


_Attempt: TypeAlias = tuple[str, Source, bytes]
"""The user's id, where it comes from, and a keyed hash of the password."""


@dataclass(frozen=True, slots=True)
class Checked:
    """How a check came out.

    Attributes:
        retry_time: set if the password was not looked at.
        password_hash: of the password, if it was right.
    """

    right: bool
    retry_time: datetime | None = None
    password_hash: str | None = field(default=None, repr=False, compare=False)


@dataclass(slots=True, eq=False)
class _Running:
    """A check that is under way.

    Attributes:
        stored: what it compares with.
        waited_for: how many callers wait for the outcome.
        begun: whether its turn has come. Until then nothing is known of the password, and it can be dropped.
        right: whether the password was right; None as long as nobody has looked at it.
    """

    stored: asyncio.Future[str | None]
    outcome: asyncio.Task[Checked] = field(init=False)
    waited_for: int = 0
    begun: bool = False
    right: bool | None = None


class PasswordChecker:
    """The one place where a password is compared.

    Args:
        find_hash: the hash stored for a user id; None if there is no such user, or none is set.
        clock: the time of day, for what callers are told.
        steady: seconds on a clock that nobody sets, for how long anybody has to wait.

    Attributes:
        outcomes: what became of all so far.
    """

    def __init__(
        self,
        argon2: Argon2,
        guesses: Guesses,
        queue: PasswordQueue,
        find_hash: Callable[[str], Awaitable[str | None]],
        *,
        clock: Callable[[], datetime],
        steady: Callable[[], float],
    ) -> None:
        self._argon2 = argon2
        self._guesses = guesses
        self._queue = queue
        self._find_hash = find_hash
        self._clock = clock
        self._steady = steady
        # Only to compare attempts with each other while they are being checked.
        self._process_key = secrets.token_bytes(32)
        self._running: dict[_Attempt, _Running] = {}
        self.outcomes: Counter[Outcome] = Counter()

    @property
    def under_way(self) -> int:
        """How many passwords are being looked at, or wait for that."""
        return len(self._running)

    async def check(self, user_id: str, password: str, address: str, *, relying_party: str = "") -> Checked:
        """Whether that is the user's password. If the caller is cancelled before it is looked at, it is not.

        Args:
            relying_party: the id of the user whose relying party passed it on, and says the address; empty if it came
                to this service itself.

        Raises:
            ResourceExhausted: PASSWORD_CHECKS_BUSY, too many checks wait.
        """
        source = Source(source_of(address), relying_party)
        composed = normalize_password(password).encode()
        key = (user_id, source, hmac.digest(self._process_key, composed, hashlib.sha256))
        outdated = None
        while (running := self._running.get(key)) is not None and running is not outdated:
            with self._waiting_for(running, key):
                # A check that began before the password was changed says nothing to whoever asks after that.
                stored = await self._find_hash(user_id)
                if stored == await asyncio.shield(running.stored):
                    return await asyncio.shield(running.outcome)
            outdated = running
        # Counted in the order of arrival, before anything is awaited: what is sent beside many others is one of them.
        guess = self._guesses.begin(user_id, source, self._steady())
        if isinstance(guess, Refused):
            self.outcomes[Outcome.THROTTLED] += 1
            wait = timedelta(seconds=max(0.0, guess.not_before - self._steady()))
            return Checked(right=False, retry_time=self._clock() + wait)
        running = self._begin(key, guess, composed.decode())
        with self._waiting_for(running, key):
            # Shielded, because equal attempts share it, and because one that was looked at counts all the same.
            return await asyncio.shield(running.outcome)

    async def hash(self, password: str, address: str) -> str:
        """The hash to store of a password that is to be set.

        Raises:
            ResourceExhausted: PASSWORD_CHECKS_BUSY.
        """
        async with self._queue.turn(Source(source_of(address))):
            return await self._argon2.hash(password)

    def _begin(self, key: _Attempt, guess: Guess, password: str) -> _Running:
        running = _Running(asyncio.get_running_loop().create_future())
        running.outcome = asyncio.create_task(self._compare(running, guess, password))
        self._running[key] = running
        # Before anybody who waits for it goes on, and also if it is cancelled before it has begun to run.
        running.outcome.add_done_callback(lambda outcome: self._finished(key, running, guess, outcome))
        return running

    async def _compare(self, running: _Running, guess: Guess, password: str) -> Checked:
        async with self._queue.turn(guess.source) as turn:
            running.begun = True
            password_hash = await self._find_hash(guess.user_id)
            running.stored.set_result(password_hash)
            running.right = turn.right = await self._argon2.verify(password_hash, password)
        return Checked(turn.right, password_hash=password_hash if turn.right else None)

    @contextmanager
    def _waiting_for(self, running: _Running, key: _Attempt) -> Iterator[None]:
        """Within, the caller waits. A check that nobody waits for any more is dropped, if its turn has not come."""
        running.waited_for += 1
        try:
            yield
        finally:
            running.waited_for -= 1
            if not running.waited_for and not running.begun:
                self._forget(key, running)
                running.outcome.cancel()

    def _finished(self, key: _Attempt, running: _Running, guess: Guess, outcome: asyncio.Task[Checked]) -> None:
        guess.end(self._steady(), right=running.right)
        self._forget(key, running)
        error = None if outcome.cancelled() else outcome.exception()
        self.outcomes[_outcome(running, error)] += 1
        if running.stored.done():
            return
        # Whoever waits for it learns the same.
        if error is None:
            running.stored.cancel()
        else:
            running.stored.set_exception(error)
            running.stored.exception()  # it may be that nobody does

    def _forget(self, key: _Attempt, running: _Running) -> None:
        # By now there may be another one, which compares with a newer password.
        if self._running.get(key) is running:
            del self._running[key]


def _outcome(running: _Running, error: BaseException | None) -> Outcome:
    if running.right is not None:
        return Outcome.RIGHT if running.right else Outcome.WRONG
    if error is None:
        return Outcome.DROPPED
    return Outcome.BUSY if isinstance(error, ResourceExhausted) else Outcome.FAILED
