"""Checks Basic credentials: throttled, in constant time for unknown users, and once for equal concurrent attempts."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TypeAlias

from handclasp.certificate_service.domain.users import normalize_password
from handclasp.certificate_service.passwords.hashing import Argon2
from handclasp.certificate_service.passwords.throttle import PasswordThrottle, source_of
from handclasp.errors import Reason, ResourceExhausted

_BUSY_RETRY = timedelta(seconds=1)

_Attempt: TypeAlias = tuple[str, str, bytes]
"""The user's id, the address, and a keyed hash of the password."""


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


@dataclass(frozen=True, slots=True, eq=False)
class _Running:
    """A check that is under way, and what it compares with."""

    stored: asyncio.Future[str | None]
    outcome: asyncio.Task[Checked]


class PasswordChecker:
    """The one place where a password is compared.

    Args:
        find_hash: the hash stored for a user id; None if there is no such user, or none is set.
        waiting_per_address: how many checks may wait at once for one address; more are refused, so that a flood from
            one address does not make everybody wait behind it.
    """

    def __init__(
        self,
        argon2: Argon2,
        throttle: PasswordThrottle,
        find_hash: Callable[[str], Awaitable[str | None]],
        clock: Callable[[], datetime],
        *,
        waiting_per_address: int,
    ) -> None:
        self._argon2 = argon2
        self._throttle = throttle
        self._find_hash = find_hash
        self._clock = clock
        self._waiting_per_address = waiting_per_address
        self._waiting: Counter[str] = Counter()
        # Only to compare attempts with each other while they are being checked.
        self._process_key = secrets.token_bytes(32)
        self._running: dict[_Attempt, _Running] = {}

    async def check(self, user_id: str, password: str, address: str) -> Checked:
        """Whether that is the user's password.

        Raises:
            ResourceExhausted: PASSWORD_CHECKS_BUSY, too many checks wait for this address.
        """
        address = source_of(address)
        composed = normalize_password(password).encode()
        key = (user_id, address, hmac.digest(self._process_key, composed, hashlib.sha256))
        outdated = None
        while (running := self._running.get(key)) is not None and running is not outdated:
            # A check that began before the password was changed says nothing to whoever asks after that.
            stored = await self._find_hash(user_id)
            if stored == await asyncio.shield(running.stored):
                return await asyncio.shield(running.outcome)
            outdated = running
        return await self._begin(key, composed.decode())

    async def _begin(self, key: _Attempt, password: str) -> Checked:
        user_id, address, _ = key
        if self._waiting[address] >= self._waiting_per_address:
            raise ResourceExhausted(
                Reason.PASSWORD_CHECKS_BUSY,
                "too many passwords from this address are being checked; try again in a moment, or use a certificate",
                retry_after=_BUSY_RETRY,
            )
        # Counted in the order of arrival, before anything is awaited: what is sent beside many others is one of them.
        retry_time = self._throttle.begin(user_id, address, self._clock())
        if retry_time is not None:
            return Checked(right=False, retry_time=retry_time)
        stored = asyncio.ensure_future(self._find_hash(user_id))
        outcome = asyncio.create_task(self._compare(user_id, address, stored, password))
        self._running[key] = _Running(stored, outcome)
        self._waiting[address] += 1
        outcome.add_done_callback(lambda done: self._finished(key, done))
        # Shielded, because equal attempts share it, and because one that is let go counts all the same.
        return await asyncio.shield(outcome)

    async def _compare(self, user_id: str, address: str, stored: asyncio.Future[str | None], password: str) -> Checked:
        right: bool | None = None
        password_hash = None
        try:
            password_hash = await stored
            right = await self._argon2.verify(password_hash, password)
        finally:
            self._throttle.end(user_id, address, self._clock(), right=right)
        return Checked(right, password_hash=password_hash if right else None)

    def _finished(self, key: _Attempt, outcome: asyncio.Task[Checked]) -> None:
        # By now there may be another one, which compares with a newer password.
        if key in self._running and self._running[key].outcome is outcome:
            del self._running[key]
        _, address, _ = key
        self._waiting[address] -= 1
        if self._waiting[address] <= 0:
            del self._waiting[address]
