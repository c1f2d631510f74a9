"""Refused TLS handshakes as events: counted, logged, and handed on to whoever keeps them.

Whose they were is not known: gRPC gives a reason and no address. By which listener is told where there is only one
that it can have been: one on which a handshake began within the time that one may take, and for what has to do with a
client certificate, one that asks for it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import structlog

from handclasp.serving.handshake_watch import HandshakeWatch, Heard
from handclasp.serving.refusal_log import RefusalLog
from handclasp.serving.tls import ReloadingCredentials

UNKNOWN = "unknown"

_RESTART_SECONDS = 1.0
_SLACK = 1.0  # seconds between what happened and the line that tells of it, on a busy machine

_LOG = structlog.stdlib.get_logger(__name__)


class HandshakeReason(StrEnum):
    """Why a TLS handshake failed; docs/troubleshooting.md says of each what to do."""

    NO_CERTIFICATE = "NO_CERTIFICATE"
    """The client presented none; also one whose key is of a kind that gRPC does not take (Ed25519, P-521)."""
    UNKNOWN_CA = "UNKNOWN_CA"
    """The client's certificate chains to no CA that is trusted here, or its intermediates were not sent."""
    EXPIRED = "EXPIRED"
    NOT_YET_VALID = "NOT_YET_VALID"
    WRONG_PURPOSE = "WRONG_PURPOSE"
    """It is not for clients: its extended key usage lacks clientAuth."""
    CHAIN_INVALID = "CHAIN_INVALID"
    """Its chain breaks another rule: path length, name constraints, a signature, a critical extension."""
    TOO_LONG = "TOO_LONG"
    """The chain that the client sent does not fit gRPC's buffers."""
    CLIENT_BROKE_OFF = "CLIENT_BROKE_OFF"
    """The client sent an alert, mostly because it does not trust this server's certificate."""
    PROTOCOL = "PROTOCOL"
    """The two have no version, cipher or group in common, such as with TLS 1.1."""
    NOT_TLS = "NOT_TLS"
    """Not TLS at all: plain HTTP, or anything else."""
    OTHER = "OTHER"


_OF_CERTIFICATES = frozenset(
    {
        HandshakeReason.NO_CERTIFICATE,
        HandshakeReason.UNKNOWN_CA,
        HandshakeReason.EXPIRED,
        HandshakeReason.NOT_YET_VALID,
        HandshakeReason.WRONG_PURPOSE,
        HandshakeReason.CHAIN_INVALID,
    }
)


@dataclass(frozen=True, slots=True)
class RefusedHandshakes:
    """Equal ones that followed each other within a moment.

    Attributes:
        listener: its name, or `unknown`.
        address: of the client, or `unknown`, which it always is so far.
    """

    reason: HandshakeReason
    listener: str
    count: int
    address: str = UNKNOWN


@dataclass(frozen=True, slots=True)
class WatchedListener:
    """A listener whose handshakes may be refused.

    Attributes:
        handshake_timeout: in seconds.
    """

    name: str
    credentials: ReloadingCredentials
    handshake_timeout: float


class HandshakeRefusals:
    """Takes in what a `HandshakeWatch` tells.

    Args:
        record: called with what was refused, once it is logged.

    Attributes:
        counts: since the start, by listener and reason.
    """

    def __init__(
        self,
        watch: HandshakeWatch | None,
        listeners: Callable[[], Sequence[WatchedListener]],
        log: RefusalLog,
        record: Callable[[RefusedHandshakes], None] | None = None,
    ) -> None:
        self._watch = watch
        self._listeners = listeners
        self._log = log
        self._record = record
        self.counts: Counter[tuple[str, HandshakeReason]] = Counter()

    async def run(self) -> None:
        """Takes it in until cancelled."""
        watch = self._watch
        if watch is None:
            await asyncio.Event().wait()
            return
        loop = asyncio.get_running_loop()
        while True:
            readable = asyncio.Event()
            loop.add_reader(watch.events, readable.set)
            try:
                await readable.wait()
            finally:
                loop.remove_reader(watch.events)
                heard = watch.read()
                self._take(heard or [])
            if heard is None:
                _LOG.error("handshake_watch_ended", retry_in=_RESTART_SECONDS)
                await asyncio.sleep(_RESTART_SECONDS)
                watch.restart()

    def _take(self, heard: Sequence[Heard]) -> None:
        for one in heard:
            reason = HandshakeReason(one.reason)
            listener = self._listener_of(reason, one.time)
            if listener is None:
                continue
            refused = RefusedHandshakes(reason, listener, one.count)
            self.counts[listener, reason] += one.count
            self._log.record(
                "handshake_refused",
                {"reason": reason, "listener": listener, "peer": ""},
                {"address": refused.address},
                count=one.count,
            )
            if self._record is not None:
                self._record(refused)

    def _listener_of(self, reason: HandshakeReason, moment: float) -> str | None:
        """The listener that it can have been, or `unknown` if there are several; None if it can have been none: then
        this process was itself the client, and whoever called has said so."""
        possible = [
            listener.name
            for listener in self._listeners()
            if listener.credentials.last_handshake >= moment - listener.handshake_timeout - _SLACK
            and (listener.credentials.mutual or reason not in _OF_CERTIFICATES)
        ]
        if not possible:
            return None
        return possible[0] if len(possible) == 1 else UNKNOWN
