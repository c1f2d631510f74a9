"""Whether revocation is in force when its call returns, over and over and under load."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from handclasp.errors import Reason
from tests.benchmarks.executing import Executing
from tests.benchmarks.processes import CallFailedError
from tests.benchmarks.registrar import Registrar
from tests.benchmarks.workload import Cast

REVOCATIONS = 2_000
AT_ONCE = 16
OTHERS = 4
"""Callers whose certificates stay, and who call all the while."""

_PAUSE_SECONDS = 0.01
"""Between the calls of each of the others, who are not to take all that the machine has."""

_ATTEMPTS = 20
_ATTEMPT_SECONDS = 0.1
_REPORTED_EVERY = 250


@dataclass(frozen=True, slots=True)
class Violations:
    """What came of it.

    Attributes:
        allowed: calls that were allowed after the revocation of their certificate had returned. Each is a fault.
        other_calls: how many calls were made meanwhile by callers whose certificates stayed.
    """

    revocations: int
    allowed: int
    other_calls: int


async def count_violations(
    registrar: Registrar, cast: Cast, address: str, progress: Callable[[str], None], *, revocations: int = REVOCATIONS
) -> Violations:
    """Issues, calls, revokes and calls at once, with so many certificates.

    Args:
        address: the execution server's.

    Raises:
        CallFailedError: a call ended in a way that has nothing to do with revocation.
    """
    other_calls = 0

    async def call_on() -> None:
        nonlocal other_calls
        client = Executing(cast.server(address, (await registrar.issue()).identity))
        try:
            while True:
                await _allowed(client)
                other_calls += 1
                await asyncio.sleep(_PAUSE_SECONDS)
        finally:
            await client.close()

    async with asyncio.TaskGroup() as group:
        others = [group.create_task(call_on()) for _ in range(OTHERS)]
        allowed = await count(lambda: _is_violation(registrar, cast, address), revocations, progress)
        for task in others:
            task.cancel()
    return Violations(revocations, allowed, other_calls)


async def count(
    is_violation: Callable[[], Awaitable[bool]], revocations: int, progress: Callable[[str], None] = lambda _: None
) -> int:
    """How many of so many attempts, several at once, are violations."""
    numbers = iter(range(1, revocations + 1))
    found = 0

    async def try_in_turn() -> None:
        nonlocal found
        for number in numbers:
            # Not `found +=` what is awaited: that adds to what was there before the wait.
            if await is_violation():
                found += 1
            if number % _REPORTED_EVERY == 0:
                progress(f"{found} violations in {number:,} revocations")

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(try_in_turn())
    return found


async def _is_violation(registrar: Registrar, cast: Cast, address: str) -> bool:
    certificate = await registrar.issue()
    client = Executing(cast.server(address, certificate.identity))
    try:
        await _allowed(client)
        await registrar.revoke(certificate)
        error = await client.run("echo")
        if error is not None and error.reason not in {
            Reason.CERTIFICATE_NOT_ACCEPTED,
            Reason.AUTHORIZER_UNAVAILABLE,
        }:
            raise CallFailedError(f"a call after the revocation ended with {error}")
        return error is None
    finally:
        await client.close()


async def _allowed(client: Executing) -> None:
    """A call that is to be allowed. A server that has no lease for a moment, on a busy machine, may be asked again."""
    for _ in range(_ATTEMPTS):
        error = await client.run("echo")
        if error is None:
            return
        if error.reason != Reason.AUTHORIZER_UNAVAILABLE:
            raise CallFailedError(f"a call of a good certificate ended with {error}")
        await asyncio.sleep(_ATTEMPT_SECONDS)
    raise CallFailedError("the execution server has had no lease for long")
