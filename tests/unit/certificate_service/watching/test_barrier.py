"""The barrier of one process, with everything around it as a test has it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from handclasp.certificate_service.domain.changes import Position
from handclasp.certificate_service.storage.database import Database
from handclasp.certificate_service.watching.barrier import Barrier, Ending
from handclasp.certificate_service.watching.feed import ChangeFeed
from handclasp.certificate_service.watching.leases import Settled
from handclasp.errors import Unavailable
from tests.unit.certificate_service.watching.test_feed import StoredHistory, commit


class Scene(Database):
    """A database of one commit, and relying parties that let a test do something before they acknowledge."""

    def __init__(self, settled: Settled = Settled(acknowledged=1)) -> None:  # noqa: B008 immutable
        self.settled = settled
        self.stored = StoredHistory()
        self.feed = ChangeFeed(self.stored)
        self.settling = asyncio.Event()
        self.gate = asyncio.Event()
        self.barrier = Barrier(self, self.feed, [self], Nobody())

    async def write_at_position(self, work: Any, _committed: Any = None) -> tuple[Any, Position]:
        return await work(None), commit(self.stored, self.feed, 1).position

    async def settle(self, _revision: int) -> Settled:
        self.settling.set()
        await self.gate.wait()
        return self.settled


def endings(scene: Scene) -> dict[Ending, int]:
    return {ending: waits.count for ending, waits in scene.barrier.waits.items() if waits.count}


async def work(_transaction: Any) -> str:
    return "done"


class Nobody:
    async def settle(self, _position: Position) -> Settled:
        return Settled()


async def test_it_returns_once_all_have_settled() -> None:
    scene = Scene()
    writing = asyncio.create_task(scene.barrier.write(work))
    await scene.settling.wait()
    assert not writing.done()
    scene.gate.set()
    done = await writing
    assert (done.value, done.revision, done.settled) == ("done", 1, Settled(acknowledged=1))
    assert endings(scene) == {Ending.ACKNOWLEDGED: 1}


@pytest.mark.parametrize(
    ("settled", "ending"),
    [
        (Settled(), Ending.NOBODY_WATCHED),
        (Settled(acknowledged=2), Ending.ACKNOWLEDGED),
        (Settled(acknowledged=2, ended=1, barred=1), Ending.LEASE_RAN_OUT),
    ],
)
async def test_waits_are_counted_by_how_they_ended(settled: Settled, ending: Ending) -> None:
    scene = Scene(settled)
    scene.gate.set()
    await scene.barrier.write(work)
    assert endings(scene) == {ending: 1}


async def test_a_wait_that_its_caller_leaves_is_counted_as_such() -> None:
    scene = Scene()
    writing = asyncio.create_task(scene.barrier.write(work))
    await scene.settling.wait()
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert endings(scene) == {Ending.ABANDONED: 1}


async def test_a_change_that_is_lost_while_it_waits_is_not_said_to_be_in_force() -> None:
    scene = Scene()
    writing = asyncio.create_task(scene.barrier.write(work))
    await scene.settling.wait()
    parted: list[int] = []
    scene.feed.on_parted(lambda: parted.append(scene.feed.head.revision))
    scene.stored.revisions.clear()
    await scene.feed.look()
    assert parted == [0]
    scene.gate.set()
    with pytest.raises(Unavailable):
        await asyncio.wait_for(writing, 10)
    await scene.feed.close()


async def test_what_was_done_before_waits_for_those_who_know_of_its_undoing_that_is_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rule 15, in a database that went back to before the undoing: there is nothing to change."""
    scene = Scene()
    parted: list[int] = []
    scene.feed.on_parted(lambda: parted.append(scene.feed.head.revision))
    done = commit(scene.stored, scene.feed, 1).position
    commit(scene.stored, scene.feed, 2)
    del scene.stored.revisions[1]

    async def nothing_to_do(work: Any, _committed: Any = None) -> tuple[Any, Position]:
        return await work(None), done

    monkeypatch.setattr(scene, "write_at_position", nothing_to_do)
    scene.gate.set()
    in_force = await asyncio.wait_for(scene.barrier.write(work), 10)
    assert in_force.revision == 1
    assert parted == [1], "before it asked who has to know"
    await scene.feed.close()
