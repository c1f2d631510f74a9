"""What calls that take something away say besides their answer: that it is in force, and what that took."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from grpc.aio import UnaryUnaryCall

Answer = TypeVar("Answer")

# Names in the trailing metadata, for the service too; certificate_service.proto says what they mean.
REVISION = "handclasp-revision"
ACKNOWLEDGED = "handclasp-acknowledged"
LEASES_ENDED = "handclasp-leases-ended"
RIGHTS_LOST = "handclasp-rights-lost"

WAITING = frozenset(
    {
        *("RevokeCertificate", "RevokeUserCertificates", "HoldCertificate", "ReinstateCertificate", "EnrollReplica"),
        *("AddTrustAnchor", "RemoveTrustAnchor"),
        *("UpdateUser", "DisableUser", "SetPassword", "UpdateAccessProfile"),
    }
)
"""The methods that wait until what they did is in force."""

LONGEST_LEASE = 60.0
"""Seconds: the longest lease that a service can be set to."""

LONGEST_WAIT = 61.0
"""Seconds that such a call waits at most: the longest lease, and by how much two clocks may differ."""


@dataclass(frozen=True, slots=True)
class BarrierReport:
    """What became of the relying parties that a change had to reach; none of them says yes to what was taken any more.

    Attributes:
        revision: includes the change.
        acknowledged: how many have applied it.
        leases_ended: how many did not acknowledge until their lease had run out.
        rights_lost: how many of the latter could not, since their own right to ask had been taken away.
    """

    revision: int
    acknowledged: int
    leases_ended: int
    rights_lost: int = 0


@dataclass(frozen=True, slots=True)
class InForce(Generic[Answer]):
    """What a call returned; and its barrier, or None if the service named none."""

    answer: Answer
    barrier: BarrierReport | None


async def in_force(call: UnaryUnaryCall[Any, Answer]) -> InForce[Answer]:
    """Awaits a call that takes something away, and reads what the service says of the barrier.

        revoked = await in_force(client.certificates.RevokeCertificate(request))

    Raises:
        HandclaspError: as the call.
    """
    answer = await call
    said = dict(await call.trailing_metadata() or ())
    numbers = [_number(said.get(key)) for key in (REVISION, ACKNOWLEDGED, LEASES_ENDED)]
    revision, acknowledged, leases_ended = numbers
    if revision is None or acknowledged is None or leases_ended is None:
        return InForce(answer, None)
    return InForce(answer, BarrierReport(revision, acknowledged, leases_ended, _number(said.get(RIGHTS_LOST)) or 0))


def _number(text: str | bytes | None) -> int | None:
    return int(text) if isinstance(text, str) and text.isascii() and text.isdigit() else None
