"""The second half of a run: what it takes that revocation is in force when its call returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.figures import Waits
from tests.benchmarks.handshakes import Handshakes, measure_handshakes
from tests.benchmarks.processes import answer, process
from tests.benchmarks.registrar import Registrar
from tests.benchmarks.relying_parties import PartyPlace
from tests.benchmarks.remembering import SHARING, Memory, measure_memory
from tests.benchmarks.revoking import until_abort, until_return
from tests.benchmarks.services import RunningServices
from tests.benchmarks.violations import Violations, count_violations
from tests.benchmarks.watchers import run_watchers
from tests.benchmarks.workload import Cast

WATCHERS = (1, 10, 100)
"""The execution server is one of them."""


@dataclass(frozen=True, slots=True)
class BarrierResult:
    """What was measured.

    Attributes:
        until_return: by number of watchers, how long RevokeCertificate took.
        until_abort: from the moment that it was called to the end of a call in progress, as its client saw it.
        memory: by how many of the decisions are about each certificate.
        handshakes: by number of trust anchors.
    """

    until_return: Mapping[int, Waits]
    until_abort: Waits
    violations: Violations
    memory: Mapping[int, Memory]
    handshakes: Mapping[int, Handshakes]


async def measure_barrier(
    services: RunningServices, cast: Cast, place: PartyPlace, folder: Path, progress: Callable[[str], None]
) -> BarrierResult:
    """Measures all of it, on services that run and have one execution server.

    Raises:
        CallFailedError: a call failed.
    """
    executions = services.addresses["executions"]
    async with Registrar.connected(cast, services.addresses["certificates_mtls"]) as registrar:
        progress("calls in progress that are aborted")
        aborts = await until_abort(registrar, cast, executions)
        violations = await count_violations(registrar, cast, executions, progress)
        returns: dict[int, Waits] = {}
        with process(run_watchers, place) as watchers:
            for number in WATCHERS:
                watchers.send(number - 1)
                await answer(watchers)
                progress(f"revocations watched by {number}")
                returns[number] = await until_return(registrar, number)
    progress("what remembered decisions take")
    memory = {sharing: await measure_memory(sharing) for sharing in SHARING}
    progress("handshakes with many trust anchors")
    return BarrierResult(returns, aborts, violations, memory, await measure_handshakes(folder))
