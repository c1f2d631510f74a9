"""What this process answers to the barriers of others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from handclasp.certificate_service.domain.changes import Position
from handclasp.certificate_service.storage.notifications import SETTLED, Seals
from handclasp.certificate_service.watching.answering import BarrierAnswers
from handclasp.certificate_service.watching.feed import ChangeFeed
from handclasp.certificate_service.watching.leases import Settled
from tests.unit.certificate_service.watching.test_feed import StoredHistory, commit

SEALS = Seals(b"a secret of the test")


class Stage:
    """A process that others ask, with somebody who watches it and acknowledges when the test says so."""

    id = "this-one"

    def __init__(self) -> None:
        self.said: list[str] = []
        self.waiting = 0
        self.gate = asyncio.Event()
        self.stored = StoredHistory()
        self.feed = ChangeFeed(self.stored, capacity=10)
        database: Any = self
        own: Any = self
        self.answers = BarrierAnswers(database, self.feed, own, [self], SEALS)

    async def say(self, channel: str, text: str) -> None:
        SEALS.opening(channel, self.said.append)(text)
        assert channel == SETTLED

    async def settle(self, revision: int) -> Settled:
        self.waiting += 1
        await self.gate.wait()
        assert self.feed.head.revision >= revision
        return Settled(acknowledged=1)

    async def ask(self, position: Position, times: int = 1) -> None:
        for _ in range(times):
            self.answers.asked(f"{position.revision}:{position.mark}")
        await asyncio.sleep(0.05)


@pytest_asyncio.fixture
async def stage() -> AsyncIterator[Stage]:
    stage = Stage()
    await stage.feed.open()
    yield stage
    await stage.answers.close()
    await stage.feed.close()


async def test_it_answers_once_all_have_acknowledged(stage: Stage) -> None:
    position = commit(stage.stored, stage.feed, 1, told=False).position
    await stage.ask(position)
    assert stage.said == []
    stage.gate.set()
    await stage.ask(position)
    assert stage.said == [f"this-one:{position.revision}:{position.mark}:1:0:0"]


async def test_who_asks_many_times_is_answered_once(stage: Stage) -> None:
    """Anybody may repeat what was said before; the answer is for all."""
    position = commit(stage.stored, stage.feed, 1).position
    await stage.ask(position, times=100)
    assert stage.waiting == 1
    stage.gate.set()
    await asyncio.sleep(0.05)
    assert len(stage.said) == 1
    await stage.ask(position)
    assert len(stage.said) == 2, "one that asks later has not heard that"


@pytest.mark.parametrize("position", [Position(1, 12345), Position(2, 0), Position(2**62, 0)])
async def test_what_is_not_of_this_history_is_not_answered(stage: Stage, position: Position) -> None:
    """And not waited for, either."""
    commit(stage.stored, stage.feed, 1)
    stage.gate.set()
    await stage.ask(position)
    assert stage.said == []
    assert stage.waiting == 0
    assert not stage.answers._settling


@pytest.mark.parametrize("text", ["", "1", "1:", ":1", "1:1:1", "-1:1", "x:1", f"{'9' * 5_000}:1"])
async def test_what_makes_no_sense_is_not_answered(stage: Stage, text: str) -> None:
    stage.gate.set()
    stage.answers.asked(text)
    await asyncio.sleep(0)
    assert stage.said == []
