"""How long a revocation takes: until its call returns, and until a call in progress has ended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from handclasp.errors import Reason
from tests.benchmarks.executing import Executing
from tests.benchmarks.figures import Waits
from tests.benchmarks.load import Server
from tests.benchmarks.processes import CallFailedError
from tests.benchmarks.registrar import Issued, Registrar
from tests.benchmarks.workload import Cast

REVOCATIONS = 300
ABORTS = 200
RETURN_SECONDS = 8.0
"""For the revocations with one number of watchers. When it is over, there are fewer."""

_IN_PROGRESS = 50
_BEGIN_SECONDS = 0.3


async def until_return(registrar: Registrar, watchers: int) -> Waits:
    """Revokes certificates one after the other.

    Raises:
        CallFailedError: another number of relying parties acknowledged it.
    """
    certificates = await registrar.issue_many(REVOCATIONS)
    waits: list[float] = []
    deadline = time.perf_counter() + RETURN_SECONDS
    for certificate in certificates:
        begin = time.perf_counter()
        barrier = await registrar.revoke(certificate)
        now = time.perf_counter()
        waits.append(now - begin)
        if barrier.acknowledged + barrier.leases_ended != watchers:
            raise CallFailedError(f"{barrier} of {watchers} watchers")
        if now > deadline:
            break
    return Waits(waits)


async def until_abort(registrar: Registrar, cast: Cast, address: str) -> Waits:
    """Has calls in progress, each with a certificate of its own, and revokes those one after the other.

    Args:
        address: the execution server's.

    Raises:
        CallFailedError: a call ended in another way.
    """
    waits: list[float] = []
    while len(waits) < ABORTS:
        certificates = await registrar.issue_many(min(_IN_PROGRESS, ABORTS - len(waits)))
        waits += await _abort_all(registrar, certificates, [cast.server(address, one.identity) for one in certificates])
    return Waits(waits)


async def _abort_all(registrar: Registrar, certificates: Sequence[Issued], servers: Sequence[Server]) -> list[float]:
    clients = [Executing(server) for server in servers]
    try:
        running = [asyncio.create_task(_until_aborted(client)) for client in clients]
        # There is nothing to be seen of a call that has begun. One that had not would end with another reason.
        await asyncio.gather(*(client.run("echo") for client in clients))
        await asyncio.sleep(_BEGIN_SECONDS)
        waits: list[float] = []
        for certificate, task in zip(certificates, running, strict=True):
            begin = time.perf_counter()
            await registrar.revoke(certificate)
            waits.append(await task - begin)
        return waits
    finally:
        for client in clients:
            await client.close()


async def _until_aborted(client: Executing) -> float:
    """When the client saw it."""
    error = await client.run("sleep")
    now = time.perf_counter()
    if error is None or error.reason != Reason.AUTHORIZATION_WITHDRAWN:
        raise CallFailedError(f"a call whose certificate was revoked ended with {error or 'an answer'}")
    return now
