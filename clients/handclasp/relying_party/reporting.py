"""Tells the certificate service what this relying party refuses by itself, in bounded aggregates, so that `handclasp
explain` shows it beside all else that was refused."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import grpc
import structlog

from handclasp.authorization.v1 import authorization_service_pb2 as messages
from handclasp.authorization.v1.refusal_pb2 import Refusal
from handclasp.relying_party.faults import ConnectionReplacedError, described, unless_replaced
from handclasp.relying_party.link import Link
from handclasp.serving.refusal_log import is_refused_call
from handclasp.serving.refused_handshakes import RefusedHandshakes

MOST_DIFFERENT = 100
"""What is kept until it is reported: as many as one report may have. Further ones are counted by kind and reason, and
past twice as many, not at all: the log has them."""

REPORT_INTERVAL = 1.0
_LAST_RETRY = 60.0  # seconds

_HANDSHAKE, _CALL = Refusal.Kind.KIND_HANDSHAKE, Refusal.Kind.KIND_CALL

_LOG = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Refused:
    kind: Refusal.Kind.ValueType
    reason: str
    listener: str = ""
    resource: str = ""
    peer_address: str = ""
    fingerprint: str = ""


class RefusalReports:
    """Collects refusals; `run` reports them.

    Args:
        timeout: in seconds, for one report.
    """

    def __init__(self, link: Link, *, timeout: float) -> None:
        self._link = link
        self._timeout = timeout
        self._waiting: Counter[_Refused] = Counter()

    def handshake(self, refused: RefusedHandshakes) -> None:
        """To be called for refused handshakes."""
        self._add(_Refused(_HANDSHAKE, refused.reason.value, listener=refused.listener), refused.count)

    def call(self, event: str, fields: Mapping[str, str], more: Mapping[str, str], count: int) -> None:
        """To be called for what is logged as refused, as `RefusalLog.observed_by` does."""
        if is_refused_call(event, fields, more):
            refused = _Refused(
                _CALL,
                fields["reason"],
                resource=fields["method"],
                peer_address=fields.get("peer", ""),
                fingerprint=fields.get("fingerprint", ""),
            )
            self._add(refused, count)

    async def run(self) -> None:
        """Reports until it is cancelled. What cannot be reported waits, and is tried again ever less often."""
        wait = REPORT_INTERVAL
        while True:
            await asyncio.sleep(wait)
            reported = await self._report()
            wait = REPORT_INTERVAL if reported else min(2 * wait, _LAST_RETRY)

    async def _report(self) -> bool:
        told = dict(self._waiting.most_common(MOST_DIFFERENT))
        if not told:
            return True
        request = messages.ReportRefusalsRequest(
            refusals=[
                Refusal(
                    kind=one.kind,
                    reason=one.reason,
                    listener=one.listener,
                    resource=one.resource,
                    peer_address=one.peer_address,
                    fingerprint=one.fingerprint,
                    count=count,
                )
                for one, count in told.items()
            ]
        )
        try:
            await unless_replaced(self._link.authorization.ReportRefusals(request, timeout=self._timeout))
        except (grpc.aio.AioRpcError, ConnectionReplacedError) as error:
            _LOG.warning("refusals_not_reported", waiting=len(self._waiting), fault=described(error))
            return False
        self._waiting.subtract(told)
        self._waiting = +self._waiting
        return True

    def _add(self, refused: _Refused, count: int) -> None:
        if refused not in self._waiting and len(self._waiting) >= MOST_DIFFERENT:
            refused = _Refused(refused.kind, refused.reason)
            if refused not in self._waiting and len(self._waiting) >= 2 * MOST_DIFFERENT:
                return
        self._waiting[refused] += count
