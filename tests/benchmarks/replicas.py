"""Three certificate services on one PostgreSQL: how long a revocation takes over all of them, and what a relying party
notices when the one that it watches is killed."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from handclasp.relying_party import RelyingParty
from tests.benchmarks.figures import Goal, Waits
from tests.benchmarks.processes import answer, process
from tests.benchmarks.registrar import Registrar
from tests.benchmarks.relying_parties import PartyFiles, PartyPlace
from tests.benchmarks.report import marked
from tests.benchmarks.revoking import until_return
from tests.benchmarks.services import RunningServices
from tests.benchmarks.watchers import run_watchers
from tests.benchmarks.workload import make_cast
from tests.e2e.fleet import Fleet, Replica, fleet
from tests.support.postgres import PostgresRun

REPLICAS = 3
WATCHERS = 10
"""At each of them; its execution server is one."""
KILLS = 6

_RETURN = Goal(at_most=0.150)
_LOOK_SECONDS = 0.002
_AFTER_KILL_SECONDS = 3.0

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class ReplicasResult:
    """What was measured.

    Attributes:
        until_return: of RevokeCertificate, at one of the services.
        without_lease: for how many seconds a relying party had no lease, by kill of the service that it watched.
        lease: how long leases are, in seconds.
    """

    until_return: Waits
    without_lease: Sequence[float]
    lease: float


def main(progress: Progress) -> None:
    """Measures, and prints a table.

    Raises:
        CallFailedError, PostgresUnavailable
    """
    run = PostgresRun.begin()
    try:
        with tempfile.TemporaryDirectory(prefix="handclasp-bench-") as folder, run.server().database() as url:
            found = asyncio.run(_measure(Path(folder), url, progress))
    finally:
        run.end()
    console = Console()
    (console if console.is_terminal else Console(width=140)).print(_table(found))


async def _measure(folder: Path, url: str, progress: Progress) -> ReplicasResult:
    progress(f"starting {REPLICAS} certificate services and as many execution servers")
    async with AsyncExitStack() as stack:
        running = await stack.enter_async_context(fleet(folder, database_url=url, replicas=REPLICAS, servers=REPLICAS))
        cast = await make_cast(_services(running))
        files = PartyFiles(folder / "party")
        files.write(cast)
        for replica in running.replicas:
            watchers = stack.enter_context(process(run_watchers, PartyPlace(files, _address(replica))))
            watchers.send(WATCHERS - 1)
            await answer(watchers)
        async with Registrar.connected(cast, _address(running.replicas[0])) as registrar:
            progress(f"revocations, {WATCHERS} watchers at each")
            waits = await until_return(registrar, REPLICAS * WATCHERS)
        addresses = ",".join(_address(replica) for replica in running.replicas)
        party = await stack.enter_async_context(PartyPlace(files, addresses).relying_party())
        lapses = []
        for number in range(1, KILLS + 1):
            progress(f"kills of the service that a relying party watches: {number} of {KILLS}")
            lapses.append(await _without_lease(running, party))
        return ReplicasResult(waits, lapses, party.lease)


async def _without_lease(running: Fleet, party: RelyingParty) -> float:
    await _until_ready(party)
    victim = next(replica for replica in running.replicas if _address(replica) == party.watched)
    victim.kill()
    end = time.perf_counter() + _AFTER_KILL_SECONDS
    without = 0.0
    before = time.perf_counter()
    while before < end:
        await asyncio.sleep(_LOOK_SECONDS)
        now = time.perf_counter()
        if not party.ready:
            without += now - before
        before = now
    await victim.start()
    return without


async def _until_ready(party: RelyingParty) -> None:
    while not party.ready:  # noqa: ASYNC110 - it tells nobody
        await asyncio.sleep(_LOOK_SECONDS)


def _services(running: Fleet) -> RunningServices:
    data = running.first.data_dir
    return RunningServices(
        addresses={"certificates_mtls": _address(running.replicas[0]), "executions": running.first.executions},
        ca_file=data / "ca.pem",
        context_file=data / "context.toml",
        processes={},
    )


def _address(replica: Replica) -> str:
    return f"localhost:{replica.deployment.ports['mtls']}"


def _table(found: ReplicasResult) -> Table:
    table = Table(
        title=f"{REPLICAS} certificate services on one PostgreSQL",
        caption="All processes are on the same machine. Times are medians and 99th percentiles.",
        caption_justify="left",
    )
    for heading in ("measured", "with", "figure", "goal"):
        table.add_column(heading)
    waits, longest = found.until_return, max(found.without_lease)
    late = waits.percentile(99)
    table.add_row(
        "RevokeCertificate, until it returns",
        f"{WATCHERS} watchers at each",
        f"{waits.percentile(50) * 1000:.1f} / {late * 1000:.1f} ms",
        marked("99 % ≤ 150 ms", _RETURN.reached(late)),
    )
    table.add_row(
        "without a lease after the service that is watched was killed",
        f"{KILLS} kills, the longest",
        f"{longest * 1000:.0f} ms",
        marked(f"≤ a lease, {found.lease:g} s", Goal(at_most=found.lease).reached(longest)),
    )
    return table
