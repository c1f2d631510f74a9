"""Argon2id off the event loop, at most so many at once."""

from __future__ import annotations

import asyncio
import secrets
from concurrent.futures import ThreadPoolExecutor

from argon2 import PasswordHasher, Type
from argon2.exceptions import InvalidHashError, VerificationError


class Argon2:
    """Hashes and checks passwords, with the parameters that OWASP names for argon2id: 19 MiB, 2 passes, 1 lane.

    Args:
        concurrency: how many hashes are computed at once. Each takes 19 MiB and a core for some 20 ms; more wait.
    """

    def __init__(self, *, concurrency: int = 2) -> None:
        self._hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1, type=Type.ID)
        self._threads = ThreadPoolExecutor(concurrency, thread_name_prefix="argon2")
        # Checked against in place of a hash that is not there, so that it takes as long. Nobody knows its password.
        self._decoy = self._hasher.hash(secrets.token_urlsafe(32))

    async def hash(self, password: str) -> str:
        """The hash to store."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._hasher.hash, password)

    async def verify(self, password_hash: str | None, password: str) -> bool:
        """Whether the password fits. Without a hash it does not, and finding that out takes as long."""
        fits = await asyncio.get_running_loop().run_in_executor(
            self._threads, self._fits, password_hash or self._decoy, password
        )
        return fits and password_hash is not None

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _fits(self, password_hash: str, password: str) -> bool:
        try:
            return self._hasher.verify(password_hash, password)
        except (VerificationError, InvalidHashError):
            return False
