"""Checks Basic credentials: throttled, in constant time for unknown users, and once for equal concurrent attempts."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
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
    """How a check came out; `retry_time` is set if the password was not looked at."""

    right: bool
    retry_time: datetime | None = None


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
        self._running: dict[_Attempt, tuple[str | None, asyncio.Task[Checked]]] = {}

    async def check(self, user_id: str, password: str, address: str) -> Checked:
        """Whether that is the user's password.

        Raises:
            ResourceExhausted: PASSWORD_CHECKS_BUSY, too many checks wait for this address.
        """
        address = source_of(address)
        composed = normalize_password(password).encode()
        key = (user_id, address, hmac.digest(self._process_key, composed, hashlib.sha256))
        if key not in self._running:
            self._require_room(address)
        # Read by each attempt, also by one that joins another: a check that began before the password was changed says
        # nothing to whoever asks after that.
        stored = await self._find_hash(user_id)
        compared_with, task = self._running.get(key, (None, None))
        if task is None or compared_with != stored:
            self._require_room(address)
            task = asyncio.create_task(self._check(user_id, stored, composed.decode(), address))
            self._running[key] = stored, task
            self._waiting[address] += 1
            task.add_done_callback(lambda done: self._finished(key, done, address))
        # Shielded, because equal attempts share it, and because one that is let go counts all the same.
        return await asyncio.shield(task)

    def _require_room(self, address: str) -> None:
        if self._waiting[address] >= self._waiting_per_address:
            raise ResourceExhausted(
                Reason.PASSWORD_CHECKS_BUSY,
                "too many passwords from this address are being checked; try again in a moment, or use a certificate",
                retry_after=_BUSY_RETRY,
            )

    async def _check(self, user_id: str, stored: str | None, password: str, address: str) -> Checked:
        retry_time = self._throttle.begin(user_id, address, self._clock())
        if retry_time is not None:
            return Checked(right=False, retry_time=retry_time)
        right = False
        try:
            right = await self._argon2.verify(stored, password)
        finally:
            self._throttle.end(user_id, address, self._clock(), right=right)
        return Checked(right)

    def _finished(self, key: _Attempt, task: asyncio.Task[Checked], address: str) -> None:
        # By now there may be another one, which compares with a newer password.
        if key in self._running and self._running[key][1] is task:
            del self._running[key]
        self._waiting[address] -= 1
        if self._waiting[address] <= 0:
            del self._waiting[address]
