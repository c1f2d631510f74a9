"""Denials: decisions that came out as a no, kept so that they can be explained."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from handclasp.certificate_service.domain.decisions import DecisionReason
from handclasp.certificate_service.domain.permissions import Permission


@dataclass(frozen=True, slots=True)
class Denial:
    """One or more equal denials that followed each other closely; its id is the decision's, for all of them.

    Attributes:
        user_id: the user of the certificate, or the name that a password was sent for, which may be no user's.
        permission: None if who the caller is could not be established; `resource` is then the method that was called.
        relying_party: id of the user that asked on the peer's behalf; empty if the peer called the service itself.
        fingerprint: of the leaf that was shown; empty if none was.
    """

    id: str
    reason: DecisionReason
    rule: str
    user_id: str
    certificate_id: str
    permission: Permission | None
    resource: str
    relying_party: str
    peer_address: str
    fingerprint: str
    first_time: datetime
    last_time: datetime
    count: int = 1
