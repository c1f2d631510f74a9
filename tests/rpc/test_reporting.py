"""A relying party tells the certificate service what it refuses by itself, in bounded aggregates."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from handclasp.authorization.v1.refusal_pb2 import Refusal
from handclasp.relying_party.reporting import MOST_DIFFERENT
from handclasp.serving.refused_handshakes import HandshakeReason, RefusedHandshakes
from tests.rpc.execution_harness import until
from tests.rpc.party_lab import running_shop

REFUSED = {"method": "/shop/Buy", "status": "UNAUTHENTICATED", "reason": "CREDENTIALS_MISSING", "peer": "192.0.2.1"}


def said(refusals: list[Refusal]) -> Counter[str]:
    counted: Counter[str] = Counter()
    for refusal in refusals:
        counted[refusal.reason] += refusal.count
    return counted


async def test_handshakes_and_calls_are_reported_with_their_number(tmp_path: Path) -> None:
    async with running_shop(tmp_path) as shop:
        for _ in range(3):
            shop.party.reports.handshake(RefusedHandshakes(HandshakeReason.EXPIRED, "executions", 2))
        shop.party.reports.call("refused", REFUSED, {}, 4)
        await until(lambda: said(shop.watches.reported).total() == 10)
        assert said(shop.watches.reported) == {"EXPIRED": 6, "CREDENTIALS_MISSING": 4}
        (call,) = (one for one in shop.watches.reported if one.kind == Refusal.KIND_CALL)
        assert (call.resource, call.peer_address) == ("/shop/Buy", "192.0.2.1")


async def test_what_is_on_record_already_or_nobodys_fault_is_not_reported(tmp_path: Path) -> None:
    async with running_shop(tmp_path) as shop:
        shop.party.reports.call("refused", REFUSED, {"decision": "decisions/d"}, 1)
        shop.party.reports.call("refused", {**REFUSED, "status": "NOT_FOUND"}, {}, 1)
        shop.party.reports.call("peer_denied", REFUSED, {}, 1)
        shop.party.reports.handshake(RefusedHandshakes(HandshakeReason.OTHER, "executions", 1))
        await until(lambda: bool(shop.watches.reported))
        assert said(shop.watches.reported) == {"OTHER": 1}


async def test_what_waits_is_bounded_and_counted_by_reason_beyond(tmp_path: Path) -> None:
    async with running_shop(tmp_path) as shop:
        for number in range(10 * MOST_DIFFERENT):
            shop.party.reports.call("refused", {**REFUSED, "peer": f"192.0.2.{number}"}, {}, 1)
        await until(lambda: said(shop.watches.reported).total() == 10 * MOST_DIFFERENT)
        assert len(shop.watches.reported) <= MOST_DIFFERENT + 1
