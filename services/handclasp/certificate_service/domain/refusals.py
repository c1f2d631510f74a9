"""Refusals that are no decisions: TLS handshakes, and calls that did not get as far as one. Kept so that people find
out why somebody cannot connect."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class RefusalKind(StrEnum):
    """How far the refused one got."""

    HANDSHAKE = "HANDSHAKE"
    """Not through the TLS handshake."""
    CALL = "CALL"
    """A call, which was refused before anything was decided about it."""
    DECISION = "DECISION"
    """A decision, which came out as a no."""


@dataclass(frozen=True, slots=True)
class Refused:
    """What was refused.

    Attributes:
        reason: of a handshake `HandshakeReason`, of a call that of its error.
        listener: of a handshake, or `unknown`.
        method: of a call.
        relying_party: id of the user that reported it; empty if it happened at this service.
        peer_address: empty if it is not known.
        fingerprint: of the leaf that was shown; empty if none was, or it is not known.
    """

    kind: RefusalKind
    reason: str
    listener: str = ""
    method: str = ""
    relying_party: str = ""
    peer_address: str = ""
    fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class Refusal:
    """One or more equal refusals that followed each other closely. Times are of this service's clock: of what a relying
    party reports, when it did."""

    id: str
    refused: Refused
    first_time: datetime
    last_time: datetime
    count: int
