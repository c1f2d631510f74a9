"""Checking of passwords, put together for tests of its parts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from handclasp.certificate_service.passwords.checking import PasswordChecker
from handclasp.certificate_service.passwords.guesses import Guesses
from handclasp.certificate_service.passwords.hashing import Argon2
from handclasp.certificate_service.passwords.queue import PasswordQueue, QueueLimits
from handclasp.certificate_service.passwords.throttle import ThrottleLimits
from handclasp.serving.clock import lease_clock


def make_checker(
    argon2: Argon2,
    find_hash: Callable[[str], Awaitable[str | None]],
    limits: ThrottleLimits | None = None,
    queue: QueueLimits | None = None,
) -> PasswordChecker:
    """With the limits of a service for which nothing is set, if none are given."""
    return PasswordChecker(
        argon2,
        Guesses(limits or ThrottleLimits()),
        PasswordQueue(queue or QueueLimits(), lease_clock),
        find_hash,
        clock=lambda: datetime.now(UTC),
        steady=lease_clock,
    )
