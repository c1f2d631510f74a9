"""The trust bundle is kept, and never older than the question."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from handclasp.certificate_service.domain.certificates import TrustAnchor
from handclasp.certificate_service.domain.changes import Effect, Position
from handclasp.certificate_service.storage.database import Database, Transaction
from handclasp.certificate_service.storage.trust_anchors import add_anchor, remove_anchor
from handclasp.certificate_service.use_cases.trust_bundle import CurrentTrustBundle
from tests.unit.x509.refusals import NOW


class Counted:
    """A database, and how often it is asked."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.reads = 0
        self.queries = 0

    async def read(self, work: Callable[..., Awaitable[Any]]) -> Any:
        self.reads += 1
        return await self._database.read(work)

    async def query(self, work: Callable[..., Awaitable[Any]]) -> Any:
        self.queries += 1
        return await self._database.query(work)


async def add(database: Database, anchor_id: str) -> None:
    anchor = TrustAnchor(
        id=anchor_id,
        display_name="",
        subject="",
        fingerprint=anchor_id,
        not_before=NOW,
        not_after=NOW,
        der=anchor_id.encode(),
        create_time=NOW,
        created_by="",
    )

    async def work(transaction: Transaction) -> None:
        await add_anchor(transaction, anchor)
        transaction.touch(f"trustAnchors/{anchor_id}", Effect.GIVEN)

    await database.write(work)


async def remove(database: Database, anchor_id: str) -> None:
    async def work(transaction: Transaction) -> None:
        assert await remove_anchor(transaction, anchor_id)
        transaction.touch(f"trustAnchors/{anchor_id}", Effect.WITHDRAWN)

    await database.write(work)


async def change_something_else(database: Database) -> None:
    async def work(transaction: Transaction) -> None:
        transaction.touch("users/somebody", Effect.ALTERED)

    await database.write(work)


@pytest.fixture
def counted(database: Database) -> Counted:
    return Counted(database)


async def test_each_change_is_in_it_at_once(database: Database, counted: Counted) -> None:
    bundle = CurrentTrustBundle(counted, lambda: None)  # type: ignore[arg-type]
    for number in range(5):
        await add(database, f"a{number}")
        assert f"a{number}".encode() in (await bundle.read()).anchors
        await remove(database, f"a{number}")
        assert f"a{number}".encode() not in (await bundle.read()).anchors


async def test_it_is_read_anew_only_if_something_changed(database: Database, counted: Counted) -> None:
    bundle = CurrentTrustBundle(counted, lambda: None)  # type: ignore[arg-type]
    await add(database, "a1")
    first = await bundle.read()
    for _ in range(10):
        assert await bundle.read() is first
    assert counted.reads == 1
    await change_something_else(database)
    assert await bundle.read() is first, "what was made of it is still good"
    assert counted.reads == 2


async def test_who_knows_of_every_commit_does_not_ask(database: Database, counted: Counted) -> None:
    head: Position | None = None
    bundle = CurrentTrustBundle(counted, lambda: head)  # type: ignore[arg-type]
    await add(database, "a1")
    first = await bundle.read()
    assert bundle._kept is not None
    head = bundle._kept[0]
    for _ in range(10):
        assert await bundle.read() is first
    assert (counted.reads, counted.queries) == (1, 0)
    # In doubt, or of another history that has got as far, it asks.
    head = Position(head.revision, head.mark + 1)
    await bundle.read()
    head = None
    await bundle.read()
    assert counted.queries == 2


async def test_who_asks_while_it_is_read_gets_one_that_is_read_later(database: Database, counted: Counted) -> None:
    """A read that runs may have begun before what they rely on was committed."""
    begun, go_on = asyncio.Event(), asyncio.Event()
    read = counted.read

    async def held_up(work: Callable[..., Awaitable[Any]]) -> Any:
        found = await read(work)
        begun.set()
        await go_on.wait()
        return found

    counted.read = held_up  # type: ignore[method-assign]
    bundle = CurrentTrustBundle(counted, lambda: None)  # type: ignore[arg-type]
    early = asyncio.create_task(bundle.read())
    await begun.wait()
    await add(database, "late")
    late = [asyncio.create_task(bundle.read()) for _ in range(50)]
    await asyncio.sleep(0)
    go_on.set()
    assert b"late" not in (await early).anchors
    assert all(b"late" in found.anchors for found in await asyncio.gather(*late))
    assert counted.reads == 2, "those that wait at the same time share one"
