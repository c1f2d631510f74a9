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

from handclasp.certificate_service.domain.users import normalize_password
from handclasp.certificate_service.passwords.hashing import Argon2
from handclasp.certificate_service.passwords.throttle import PasswordThrottle, source_of
from handclasp.errors import Reason, ResourceExhausted

_BUSY_RETRY = timedelta(seconds=1)


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
        self._running: dict[tuple[str, str, bytes], asyncio.Task[Checked]] = {}

    async def check(self, user_id: str, password: str, address: str) -> Checked:
        """Whether that is the user's password.

        Raises:
            ResourceExhausted: PASSWORD_CHECKS_BUSY, too many checks wait for this address.
        """
        address = source_of(address)
        composed = normalize_password(password).encode()
        key = (user_id, address, hmac.digest(self._process_key, composed, hashlib.sha256))
        task = self._running.get(key)
        if task is None:
            if self._waiting[address] >= self._waiting_per_address:
                raise ResourceExhausted(
                    Reason.PASSWORD_CHECKS_BUSY,
                    "too many passwords from this address are being checked; try again in a moment, or use a"
                    " certificate",
                    retry_after=_BUSY_RETRY,
                )
            task = self._running[key] = asyncio.create_task(self._check(user_id, composed.decode(), address))
            self._waiting[address] += 1
            task.add_done_callback(lambda _: self._finished(key, address))
        # Shielded, because equal attempts share it, and because one that is let go counts all the same.
        return await asyncio.shield(task)

    async def _check(self, user_id: str, password: str, address: str) -> Checked:
        retry_time = self._throttle.begin(user_id, address, self._clock())
        if retry_time is not None:
            return Checked(right=False, retry_time=retry_time)
        right = False
        try:
            right = await self._argon2.verify(await self._find_hash(user_id), password)
        finally:
            self._throttle.end(user_id, address, self._clock(), right=right)
        return Checked(right)

    def _finished(self, key: tuple[str, str, bytes], address: str) -> None:
        self._running.pop(key, None)
        self._waiting[address] -= 1
        if self._waiting[address] <= 0:
            del self._waiting[address]
