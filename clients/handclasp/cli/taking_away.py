"""Commands that take something away: they wait until it is in force, and say what that took."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from handclasp.cli.output import print_line
from handclasp.cli.progress import progress
from handclasp.client.in_force import BarrierReport, InForce, in_force
from handclasp.client.retries import repeat_if_lost

if TYPE_CHECKING:
    from grpc.aio import UnaryUnaryCall

Answer = TypeVar("Answer")


async def take_away(call: Callable[[], UnaryUnaryCall[Any, Answer]], *, repeat: bool = False) -> InForce[Answer]:
    """Makes a call that takes something away, which may take as long as a relying party's lease.

    Args:
        call: made here, so that it can be made again.
        repeat: whether to make it again if its answer is lost; for calls that do the same then.
    """
    async with progress("Waiting until every relying party has heeded it"):
        return await (repeat_if_lost(lambda: in_force(call())) if repeat else in_force(call()))


def in_force_json(done: InForce[Any]) -> dict[str, Any]:
    """What stands beside the resource: `in_force`, null if the service says nothing of it."""
    barrier = done.barrier
    if barrier is None:
        return {"in_force": None}
    return {
        "in_force": {
            "revision": barrier.revision,
            "acknowledged": barrier.acknowledged,
            "leases_ended": barrier.leases_ended,
            "rights_lost": barrier.rights_lost,
        }
    }


def print_in_force(done: InForce[Any]) -> None:
    """A line for people, if the service says anything of it."""
    if done.barrier is not None:
        print_line(f"In force: {_sentence(done.barrier)}")


def _sentence(barrier: BarrierReport) -> str:
    acknowledged, ended = barrier.acknowledged, barrier.leases_ended
    if not acknowledged and not ended:
        return "no relying party is connected."
    if not ended:
        return f"{_relying_parties(acknowledged)} acknowledged."
    lost = barrier.rights_lost
    did = [f"{ended - lost} did not answer"] if ended > lost else []
    if lost:
        did.append(f"{lost} lost {'its' if lost == 1 else 'their'} own right to ask")
    if acknowledged:
        before = f"{_relying_parties(acknowledged)} acknowledged; "
    else:
        before, first = "", did[0].partition(" ")
        did[0] = f"{_relying_parties(int(first[0]))} {first[2]}"
    lease = "its lease has run out" if ended == 1 else "their leases have run out"
    return f"{before}{', '.join(did)}, and {lease}."


def _relying_parties(count: int) -> str:
    return "1 relying party" if count == 1 else f"{count} relying parties"
