"""One run: the services with more and more certificates on file, and what they do then."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

from handclasp.certificate_service.settings import CertificateServiceSettings
from tests.benchmarks import workload
from tests.benchmarks.barrier import BarrierResult, measure_barrier
from tests.benchmarks.echo import run_echo
from tests.benchmarks.executing import write_integrations
from tests.benchmarks.figures import Burst, Comparison
from tests.benchmarks.filling import fill
from tests.benchmarks.guarded_echo import run_guarded_echo
from tests.benchmarks.load import Calls, Failure, Loop, run_load
from tests.benchmarks.processes import CallFailedError, answer, process
from tests.benchmarks.relying_parties import PartyFiles, PartyPlace
from tests.benchmarks.services import SERVICES, running_services

SIZES = (1_000, 100_000)
FULL_SIZES = (*SIZES, 1_000_000)

ROUNDS = 8
BURST_SECONDS = 0.5
_WARM_UP_SECONDS = 0.4

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class SizeResult:
    """What was measured with so many certificates on file.

    Attributes:
        comparisons: by name of what is measured and of what it is compared with.
        memory: resident bytes of each service after all that.
    """

    size: int
    comparisons: Mapping[tuple[str, str], Comparison]
    memory: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Result:
    """What was measured in one run."""

    sizes: Sequence[SizeResult]
    barrier: BarrierResult


async def measure(folder: Path, sizes: Sequence[int], progress: Progress, *, database_url: str | None = None) -> Result:
    """Measures what has a rate at each size, and the barrier after that.

    Args:
        folder: empty; for the services' data.
        database_url: an empty database; None for SQLite in the folder.

    Raises:
        CallFailedError: a call failed.
        ServicesError: the services did not start.
    """
    progress("starting both services for the first time")
    async with running_services(folder, database_url) as services:
        cast = await workload.make_cast(services)
    database = database_url or CertificateServiceSettings(data_dir=folder / "data", database_url=None).url()
    files, integrations = PartyFiles(folder / "relying-party"), folder / "integrations"
    files.write(cast)
    write_integrations(integrations)
    results = []
    with process(run_echo, cast.echo_identity) as echo:
        echo_address = f"localhost:{await answer(echo)}"
        for size in sizes:
            stored = await fill(database, size, lambda count: progress(f"{count:,} certificates on file"))
            async with running_services(folder, database_url) as services:
                with process(run_guarded_echo, PartyPlace(files, services.addresses["certificates_mtls"])) as guarded:
                    guarded_address = f"localhost:{await answer(guarded)}"
                    things = workload.make_workload(services, cast, echo_address, guarded_address, stored)
                    comparisons = await _compare_all(things, partial(_progress_at, progress, size))
                memory = {service: services.resident_memory(service) for service in SERVICES}
            results.append(SizeResult(size, comparisons, memory))
    async with running_services(folder, database_url, integrations=integrations) as services:
        place = PartyPlace(files, services.addresses["certificates_mtls"])
        barrier = await measure_barrier(services, cast, place, folder, progress)
    return Result(results, barrier)


def _progress_at(progress: Progress, size: int, what: str) -> None:
    progress(f"{size:,}: {what}")


async def _compare_all(things: Mapping[str, Calls | Loop], progress: Progress) -> dict[tuple[str, str], Comparison]:
    found: dict[tuple[str, str], Comparison] = {}
    with process(run_load, things) as load:
        for name in workload.MEASURED:
            beside = [workload.ECHO, workload.SIGNING] if name == workload.ISSUE else [workload.ECHO]
            for warmed_up in (*beside, name):
                await _burst(load, warmed_up, _WARM_UP_SECONDS)
            bursts: dict[str, list[Burst]] = {one: [] for one in (*beside, name)}
            for number in range(1, ROUNDS + 1):
                # In turns, so that whatever else runs on the machine slows all of them down alike.
                for one, found_bursts in bursts.items():
                    found_bursts.append(await _burst(load, one, BURST_SECONDS))
                rate = statistics.median(burst.rate for burst in bursts[name])
                progress(f"{name}: round {number} of {ROUNDS}, {rate:,.0f} calls/s")
            for other in beside:
                found[name, other] = Comparison(bursts[name], bursts[other])
        load.send(None)
    return found


async def _burst(load: Connection, name: str, seconds: float) -> Burst:
    load.send((name, seconds))
    burst = await answer(load)
    if isinstance(burst, Failure):
        raise CallFailedError(burst.message)
    if not isinstance(burst, Burst) or not workload.is_right(name, burst.sample):
        raise CallFailedError(f"{name}: the answer is not what was asked for")
    return burst
