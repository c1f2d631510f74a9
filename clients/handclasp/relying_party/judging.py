"""Turns decisions of the certificate service into a yes or a typed error."""

from __future__ import annotations

import math
from typing import TypeAlias

import structlog
from google.protobuf.timestamp_pb2 import Timestamp

from handclasp.authorization.v1 import decision_pb2, permission_pb2
from handclasp.errors import HandclaspError, PermissionDenied, Reason, ResourceExhausted, Unauthenticated
from handclasp.relying_party.decisions import Allowed, Yes
from handclasp.relying_party.faults import nonsense

Permission: TypeAlias = "permission_pb2.Permission.ValueType"

_NOT_ACCEPTED = frozenset(
    {
        decision_pb2.DECISION_REASON_UNKNOWN_CERTIFICATE,
        decision_pb2.DECISION_REASON_REVOKED,
        decision_pb2.DECISION_REASON_ON_HOLD,
        decision_pb2.DECISION_REASON_EXPIRED,
        decision_pb2.DECISION_REASON_NOT_YET_VALID,
        decision_pb2.DECISION_REASON_USER_DISABLED,
        decision_pb2.DECISION_REASON_ANCHOR_REMOVED,
    }
)


def judged(decision: decision_pb2.Decision, permission: Permission, resource: str, *, asked: float) -> Yes:
    """The yes that a decision is. Whether it still stands is for the caller to see.

    Args:
        asked: when the question was asked, by this server's wall clock. It may be slow, and a yes is not to last longer
            for that: what is left of it counts from then, and was told by the service's clock.

    Raises:
        Unauthenticated, PermissionDenied, ResourceExhausted: it is a no. The peer is told the coarse status and the id.
        Unavailable: it answers something else than was asked, or does not say what it rests on.
    """
    if decision.permission != permission or decision.resource != resource:
        raise nonsense("a decision about something else than was asked")
    if decision.allowed and decision.reason == decision_pb2.DECISION_REASON_ALLOWED:
        if not decision.rests_on:
            raise nonsense("a yes that does not say what it rests on")
        expires = None
        if decision.HasField("expire_time"):
            expires = _seconds(decision.expire_time)
            if decision.HasField("decide_time"):
                expires = min(expires, asked + expires - _seconds(decision.decide_time))
        allowed = Allowed(decision.user, decision.certificate, decision.name)
        return Yes(allowed, decision.revision, tuple(decision.rests_on), expires)
    # The log of this call is to say for whom, and why; each call has a context of its own.
    structlog.contextvars.bind_contextvars(
        user=decision.user, decision=decision.name, decision_reason=_reason_name(decision)
    )
    raise _refusal(decision)


def _refusal(decision: decision_pb2.Decision) -> HandclaspError:
    reason = decision.reason
    metadata = {"decision": decision.name}
    explained = (
        f"this is decision {decision.name}; whoever may see the audit log can run "
        f"`handclasp explain {decision.name.removeprefix('decisions/')}`"
    )
    if reason in _NOT_ACCEPTED:
        message = f"the client certificate is not accepted; {explained}"
        return Unauthenticated(Reason.CERTIFICATE_NOT_ACCEPTED, message, metadata=metadata)
    if reason == decision_pb2.DECISION_REASON_CREDENTIALS_INVALID:
        message = f"user name or password is wrong; send the right ones or none; {explained}"
        return Unauthenticated(Reason.CREDENTIALS_INVALID, message, metadata=metadata)
    if reason == decision_pb2.DECISION_REASON_CREDENTIALS_MISMATCH:
        message = f"the user name is not the certificate's user; send that one's credentials or none; {explained}"
        return Unauthenticated(Reason.CREDENTIALS_MISMATCH, message, metadata=metadata)
    if reason == decision_pb2.DECISION_REASON_CREDENTIALS_THROTTLED:
        # Both times are the service's, so the two clocks need not agree.
        delay = decision.retry_time.ToDatetime() - decision.decide_time.ToDatetime()
        seconds = max(1, math.ceil(delay.total_seconds()))
        message = f"too many wrong passwords; wait {seconds} s, or send no password; {explained}"
        return ResourceExhausted(Reason.CREDENTIALS_THROTTLED, message, metadata=metadata, retry_after=delay)
    # Also for reasons that a newer service may have: a no is a no.
    return PermissionDenied(Reason.ACCESS_DENIED, f"not allowed; {explained}", metadata=metadata)


def _seconds(moment: Timestamp) -> float:
    return moment.seconds + moment.nanos / 1e9


def _reason_name(decision: decision_pb2.Decision) -> str:
    known = decision_pb2.DecisionReason.DESCRIPTOR.values_by_number.get(decision.reason)
    return known.name.removeprefix("DECISION_REASON_") if known else str(int(decision.reason))
