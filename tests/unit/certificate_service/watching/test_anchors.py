"""A change of a trust anchor is in force once this process's own listeners heed it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from sqlalchemy.exc import OperationalError

from handclasp.certificate_service.domain.changes import Change, Effect, Position, Revision
from handclasp.certificate_service.watching.anchors import AnchorsFollower
from handclasp.certificate_service.watching.feed import ChangeFeed
from tests.unit.certificate_service.watching.test_feed import StoredHistory


class Stage:
    """A feed, and listeners that are told to reload and do it when the test lets them."""

    def __init__(self, patience: float = 30.0) -> None:
        self.stored = StoredHistory()
        self.feed = ChangeFeed(self.stored)
        self.reloads = 0
        self.failures = 0
        self.hold_next = False
        self.gate = asyncio.Event()
        self.follower = AnchorsFollower(self.feed, self._reload, patience=patience)

    async def _reload(self) -> None:
        if self.failures:
            self.failures -= 1
            raise OperationalError("SELECT", {}, Exception("the test says so"))
        await self.gate.wait()
        self.reloads += 1
        if self.hold_next:
            self.gate.clear()

    def publish(self, name: str) -> int:
        number = self.feed.head.revision + 1
        self.feed.committed(Revision(Position(number, number), (Change(name, Effect.GIVEN),)))
        return number


@pytest_asyncio.fixture
async def stage() -> AsyncIterator[Stage]:
    stage = Stage()
    running = asyncio.create_task(stage.follower.run())
    yield stage
    running.cancel()
    await asyncio.wait({running})


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_it_is_waited_for(stage: Stage) -> None:
    revision = stage.publish("trustAnchors/a")
    settling = asyncio.create_task(stage.follower.settle(revision))
    await turns()
    assert not settling.done()
    assert stage.follower.settled_up_to(revision) == revision - 1
    stage.gate.set()
    await settling
    assert stage.reloads == 1
    assert stage.follower.settled_up_to(revision) == revision


async def test_what_is_no_anchor_is_not_waited_for(stage: Stage) -> None:
    revision = stage.publish("certificates/c")
    await asyncio.wait_for(stage.follower.settle(revision), 10)
    assert stage.reloads == 0
    assert stage.follower.settled_up_to(revision) == revision


async def test_a_later_change_does_not_hold_up_an_earlier_one_for_ever(stage: Stage) -> None:
    first = stage.publish("trustAnchors/a")
    settling = asyncio.create_task(stage.follower.settle(first))
    await turns()
    stage.publish("trustAnchors/b")
    stage.gate.set()
    await settling


async def test_of_two_changes_the_earlier_one_says_how_far_it_is(stage: Stage) -> None:
    """Whoever waits for the first one elsewhere hears of it by this process's row."""
    first = stage.publish("trustAnchors/a")
    stage.publish("certificates/c")
    last = stage.publish("trustAnchors/b")
    assert stage.follower.settled_up_to(last) == first - 1
    stage.gate.set()
    await stage.follower.settle(last)
    assert stage.follower.settled_up_to(last) == last


async def test_one_that_comes_while_it_reloads_is_not_heeded_by_that(stage: Stage) -> None:
    stage.publish("trustAnchors/a")
    await turns()
    last = stage.publish("trustAnchors/b")
    stage.publish("certificates/c")
    stage.hold_next = True
    stage.gate.set()
    await turns()
    assert stage.reloads == 1
    assert stage.follower.settled_up_to(last + 1) == last - 1


async def test_a_reload_that_fails_is_tried_again(stage: Stage) -> None:
    stage.failures = 1
    stage.gate.set()
    await asyncio.wait_for(stage.follower.settle(stage.publish("trustAnchors/a")), 10)
    assert stage.reloads == 1


@pytest.mark.parametrize("length", [3, 6])
async def test_of_another_history_nothing_is_heeded_before_a_reload(stage: Stage, length: int) -> None:
    """The second revision is another one than that which was looked at, whether there are fewer by now or more."""
    for _ in range(5):
        stage.publish("certificates/c")
    await turns()
    changes = [Change("certificates/c", Effect.GIVEN)] * length
    changes[1] = Change("trustAnchors/a", Effect.WITHDRAWN)
    stage.stored.revisions = [
        Revision(Position(number, number if number == 1 else 100 + number), (change,))
        for number, change in enumerate(changes, 1)
    ]
    await stage.feed.look()
    settling = asyncio.create_task(stage.follower.settle(2))
    await turns()
    assert not settling.done()
    assert stage.follower.settled_up_to(length) < 2
    stage.gate.set()
    await settling
    assert stage.follower.settled_up_to(length) == length


async def test_patience_ends() -> None:
    """Decisions heed the change in any case; a listener that is stuck must not hold up taking away."""
    stage = Stage(patience=0.05)
    running = asyncio.create_task(stage.follower.run())
    await asyncio.wait_for(stage.follower.settle(stage.publish("trustAnchors/a")), 10)
    assert stage.reloads == 0
    running.cancel()
    await asyncio.wait({running})
