"""A relying party's listener follows the trust bundle, and a change of it is acknowledged only then."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
import structlog

from handclasp.errors import Unavailable
from tests.rpc.execution_harness import ALLOWED, until
from tests.rpc.party_lab import Shop, refusal, running_shop
from tests.rpc.scripted_watch import GIVEN, WITHDRAWN, ScriptedStream, ScriptedWatches
from tests.support.outside_ca import Issued, OutsideCA

ANCHOR = "trustAnchors/outside"


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    async with running_shop(tmp_path) as running:
        yield running


class Outside:
    """A CA that the certificate service is told of, and a client of it."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop
        self.ca = OutsideCA("Outside CA")
        self.bob: Issued = self.ca.issue("bob")
        shop.service.reasons[self.bob.der] = ALLOWED

    async def gets_in(self) -> bool:
        """Whether a new handshake succeeds."""
        self.shop.channels.pop(self.bob.der, None)
        try:
            return bool(await self.shop.unary(client=self.bob))
        except grpc.aio.AioRpcError:
            return False

    async def wait_until_in(self) -> None:
        while not await self.gets_in():  # noqa: ASYNC110 nothing says when a handshake would succeed
            await asyncio.sleep(0.02)


async def test_when_a_change_of_an_anchor_is_acknowledged_the_next_handshake_heeds_it(shop: Shop) -> None:
    outside = Outside(shop)
    for _ in range(3):
        assert not await outside.gets_in()
        shop.service.trust_anchors.append(outside.ca.pem)
        await shop.watches.change((ANCHOR, GIVEN))
        assert await outside.gets_in()
        shop.service.trust_anchors.clear()
        await shop.watches.change((ANCHOR, WITHDRAWN))


async def test_handlers_that_wait_in_threads_do_not_hold_it_up(shop: Shop) -> None:
    outside = Outside(shop)
    over = threading.Event()
    threads = ThreadPoolExecutor(1)
    asyncio.get_running_loop().set_default_executor(threads)
    waiting = asyncio.create_task(asyncio.to_thread(over.wait))
    try:
        shop.service.trust_anchors.append(outside.ca.pem)
        await shop.watches.change((ANCHOR, GIVEN))
        assert await outside.gets_in()
    finally:
        over.set()
        await waiting


async def test_decisions_heed_it_before_it_is_acknowledged(shop: Shop) -> None:
    await shop.unary()
    shop.service.bundle_gate = asyncio.Event()
    revision = shop.watches.push((ANCHOR, WITHDRAWN))
    await until(lambda: shop.service.bundles_read >= 3)
    await shop.unary("About", b"7")
    assert shop.service.checked[-1].min_revision == revision
    assert shop.watches.stream.acknowledged < revision
    # The lease goes on meanwhile: its pongs ask for what is applied, and not for what is acknowledged.
    assert shop.party.ready
    shop.service.bundle_gate.set()
    await shop.watches.acknowledgement(revision)


async def test_a_bundle_that_is_late_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    async with running_shop(tmp_path, watches=ScriptedWatches(lease=1.0)) as shop:
        outside = Outside(shop)
        await until(lambda: shop.party.ready)
        shop.service.bundle_gate = asyncio.Event()
        shop.service.trust_anchors.append(outside.ca.pem)
        with structlog.testing.capture_logs() as lines:
            await shop.watches.change((ANCHOR, GIVEN))
        assert "trust_bundle_late" in [line["event"] for line in lines]
        assert not await outside.gets_in()
        shop.service.bundle_gate.set()
        await outside.wait_until_in()


async def test_a_change_while_the_bundle_is_read_has_it_read_again(shop: Shop) -> None:
    outside = Outside(shop)
    await until(lambda: shop.party.ready)
    shop.service.bundle_gate = asyncio.Event()
    before = shop.service.bundles_read
    first = shop.watches.push((ANCHOR, GIVEN))
    await until(lambda: shop.service.bundles_read == before + 1)
    shop.service.trust_anchors.append(outside.ca.pem)
    second = shop.watches.push((ANCHOR, GIVEN))
    await asyncio.sleep(0.1)
    assert shop.watches.stream.acknowledged < first
    gate, shop.service.bundle_gate = shop.service.bundle_gate, None
    gate.set()
    await shop.watches.acknowledgement(second)
    assert shop.service.bundles_read == before + 2
    assert await outside.gets_in()


async def test_what_was_missed_is_read_when_the_stream_is_back(shop: Shop) -> None:
    outside = Outside(shop)
    await until(lambda: shop.party.ready)
    before = shop.service.bundles_read
    shop.service.trust_anchors.append(outside.ca.pem)
    shop.watches.stream.end(grpc.StatusCode.UNAVAILABLE)
    await until(lambda: shop.service.bundles_read > before)
    await outside.wait_until_in()


async def test_a_stream_that_breaks_meanwhile_does_not_acknowledge_too_early(shop: Shop) -> None:
    await until(lambda: shop.party.ready)
    shop.service.bundle_gate = asyncio.Event()
    revision = shop.watches.push((ANCHOR, GIVEN))
    await asyncio.sleep(0.1)
    shop.watches.stream.end(grpc.StatusCode.UNAVAILABLE)
    await asyncio.sleep(0.3)
    assert len(shop.watches.streams) == 1
    shop.service.bundle_gate.set()
    await shop.watches.acknowledgement(revision)
    assert shop.watches.stream.start.applied.revision == revision


async def test_what_was_read_before_a_reset_is_not_taken_for_what_the_new_history_has(tmp_path: Path) -> None:
    async with running_shop(tmp_path, watches=ScriptedWatches(lease=20.0)) as shop:
        await until(lambda: shop.party.ready)
        shop.service.bundle_gate = first = asyncio.Event()
        before = shop.service.bundles_read
        # The bundle is read, since something may have been missed.
        shop.watches.stream.end(grpc.StatusCode.UNAVAILABLE)
        await until(lambda: shop.service.bundles_read > before)
        shop.watches.revision, shop.watches.history = 5, "another"
        shop.watches.stream.end(grpc.StatusCode.UNAVAILABLE)
        # The stream on which it hears that what it knew is lost, and the one on which it begins anew.
        await until(lambda: len(shop.watches.streams) == 4 and bool(shop.watches.stream.pings))
        shop.service.bundle_gate = second = asyncio.Event()
        first.set()
        await until(lambda: shop.service.bundles_read == before + 2)
        await asyncio.sleep(0.2)
        assert shop.watches.stream.acknowledged == 0
        second.set()
        await shop.watches.acknowledgement(5)


class OutOfReachOnceLost(ScriptedWatches):
    """Refuses streams from when it has first said that it knows less."""

    def _begin(self, stream: ScriptedStream) -> None:
        super()._begin(stream)
        if stream.start.applied.revision > self.revision and len(self.streams) == 3:
            self.refusal = grpc.StatusCode.UNAVAILABLE


async def test_nor_is_it_between_the_loss_of_the_history_and_the_reset(tmp_path: Path) -> None:
    async with running_shop(tmp_path, watches=OutOfReachOnceLost(lease=1.0)) as shop:
        await until(lambda: shop.party.ready)
        shop.service.bundle_gate = first = asyncio.Event()
        before = shop.service.bundles_read
        shop.watches.stream.end(grpc.StatusCode.UNAVAILABLE)
        await until(lambda: shop.service.bundles_read > before)
        # It is not in what is read just now, and is acknowledged once that has taken too long.
        await shop.watches.change((ANCHOR, GIVEN))
        shop.watches.revision, shop.watches.history = 5, "another"
        shop.watches.stream.end(grpc.StatusCode.UNAVAILABLE)
        await until(lambda: shop.watches.refusal is not None)
        await until(lambda: not shop.party.ready)
        first.set()
        await until(lambda: shop.service.bundles_read == before + 2)
        shop.watches.refusal = None
        await shop.watches.acknowledgement(5)
        assert [stream.start.applied.revision for stream in shop.watches.streams] == [0, 10, 11, 0]


async def test_a_large_bundle_holds_up_nobody(shop: Shop) -> None:
    anchors = [OutsideCA(f"CA {number}").pem for number in range(300)]
    await shop.unary()
    shop.service.trust_anchors += anchors
    changing = asyncio.create_task(shop.watches.change((ANCHOR, GIVEN)))
    loop = asyncio.get_running_loop()
    longest = 0.0
    while not changing.done():
        since = loop.time()
        await asyncio.sleep(0)
        longest = max(longest, loop.time() - since)
    assert longest < 0.5
    assert shop.party.ready


async def test_an_own_ca_that_cannot_be_used_leaves_the_last_bundle_in_force(shop: Shop) -> None:
    await until(lambda: shop.party.ready)
    shop.service.authorities = ["garbage"]
    shop.watches.push((ANCHOR, GIVEN))
    await asyncio.sleep(0.2)
    shop.channels.clear()
    assert await shop.unary() == b"x"
    error = await refusal(shop.unary(client=OutsideCA("Foreign CA").issue("alice")))
    assert type(error) is Unavailable


async def test_anchors_of_a_history_that_was_lost_are_not_waited_for(shop: Shop) -> None:
    await shop.watches.change((ANCHOR, GIVEN))
    shop.watches.revision, shop.watches.history = 4, "restored"
    shop.watches.changes.clear()
    with structlog.testing.capture_logs() as lines:
        shop.watches.stream.end(grpc.StatusCode.UNAVAILABLE)
        await until(lambda: "knowledge_reset" in [line["event"] for line in lines])
        await shop.watches.acknowledgement(4)
        await shop.watches.change((ANCHOR, GIVEN))
        await asyncio.wait_for(shop.watches.change(("users/somebody", WITHDRAWN)), 0.6)
        await asyncio.sleep(1.2)  # more than half a lease
    assert "trust_bundle_late" not in [line["event"] for line in lines]
