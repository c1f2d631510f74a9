"""What callers are told of the barrier that their call waited at."""

from __future__ import annotations

from typing import Any, TypeVar

import grpc

from handclasp.certificate_service.watching.barrier import InForce
from handclasp.client.in_force import ACKNOWLEDGED, LEASES_ENDED, REVISION, RIGHTS_LOST

T = TypeVar("T")


def in_force(done: InForce[T], context: grpc.aio.ServicerContext[Any, Any]) -> T:
    """What was done; the trailing metadata says the revision, and what became of the relying parties."""
    context.set_trailing_metadata(
        (
            (REVISION, str(done.revision)),
            (ACKNOWLEDGED, str(done.settled.acknowledged)),
            (LEASES_ENDED, str(done.settled.ended)),
            (RIGHTS_LOST, str(done.settled.barred)),
        )
    )
    return done.value
