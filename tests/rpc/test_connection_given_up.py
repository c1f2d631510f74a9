"""A relying party gives a connection up for another one. What waits for an answer over it asks again, and goes on."""

from __future__ import annotations

import asyncio
from pathlib import Path

from handclasp.relying_party import Options, RenewalTimes
from tests.rpc.execution_harness import until
from tests.rpc.party_lab import Shop, running_shop
from tests.rpc.scripted_watch import GIVEN
from tests.rpc.test_own_identity import Wall

ANCHOR = "trustAnchors/outside"
TIMES = RenewalTimes(check_interval=0.05, first_retry=0.1)


async def give_up_the_connection(shop: Shop) -> None:
    """As if there were another address to go to: whatever is under way over this one ends at once."""
    link = shop.party._link
    link._closing_grace = 0
    link.reconnect()
    # Tried again at each address, and that in vain.
    await asyncio.sleep(1)


async def test_the_trust_bundle_is_followed_on(tmp_path: Path) -> None:
    async with running_shop(tmp_path) as shop:
        await until(lambda: shop.party.ready)
        shop.service.bundle_gate = asyncio.Event()
        before = shop.service.bundles_read
        shop.watches.push((ANCHOR, GIVEN))
        await until(lambda: shop.service.bundles_read > before)
        await give_up_the_connection(shop)
        gate, shop.service.bundle_gate = shop.service.bundle_gate, None
        gate.set()
        before = shop.service.bundles_read
        await shop.watches.change((ANCHOR, GIVEN))
        assert shop.service.bundles_read > before, "what is acknowledged is heeded"
        assert not any(task.done() for task in shop.party.background)


async def test_the_own_certificate_is_renewed_all_the_same(tmp_path: Path) -> None:
    wall = Wall()
    async with running_shop(tmp_path, options=Options(wall_clock=wall, renewal=TIMES)) as shop:
        await until(lambda: shop.party.ready)
        shop.service.renewal_gate = asyncio.Event()
        wall.days = 20.5
        await until(lambda: bool(shop.service.renewals))
        await give_up_the_connection(shop)
        shop.service.renewal_gate.set()
        await until(lambda: shop.party._link.identity.chain_pem != shop.own.pem.encode())
        # The answer may have been lost: the same request, so that no second certificate is issued for it.
        assert len({(item.request_id, item.csr_pem) for item in shop.service.renewals}) == 1
        assert not any(task.done() for task in shop.party.background)
