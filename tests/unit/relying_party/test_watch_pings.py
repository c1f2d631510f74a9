"""When a ping's lease begins to count (rule 1 of docs/revocation.md), where a write takes long."""

from __future__ import annotations

import asyncio
from typing import Any

from handclasp.relying_party.decisions import Decisions
from handclasp.relying_party.knowledge import Knowledge, Position
from handclasp.relying_party.watch import Watch
from tests.unit.relying_party.test_knowledge import Clock


class SlowStream:
    """Each write takes forty seconds on the clock, as one does that waits for the link."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.written: list[Any] = []

    async def write(self, message: Any) -> None:
        await asyncio.sleep(0)
        self.clock.now += 40
        self.written.append(message)


async def test_the_clock_is_read_before_the_ping_is_written() -> None:
    clock = Clock()
    knowledge = Knowledge(clock)
    knowledge.begin_stream()
    knowledge.reset(Position(10, 1))
    link: Any = None
    watch = Watch(link, knowledge, Decisions(knowledge, Clock()))
    stream = SlowStream(clock)
    writing = asyncio.create_task(watch._write(stream, 30.0))
    while not stream.written:  # noqa: ASYNC110 it is the only other task
        await asyncio.sleep(0)
    await asyncio.sleep(0.01)
    writing.cancel()
    (message,) = stream.written
    assert knowledge.pong(message.ping.number, 10, 60.0)
    clock.now += 19
    assert knowledge.lease_runs()
    clock.now += 2
    assert not knowledge.lease_runs()
