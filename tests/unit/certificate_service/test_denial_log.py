"""The denial log: counts equal denials together, is bounded under a flood, and keeps what it could not write."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.exc import DBAPIError

from handclasp.certificate_service.domain.decisions import DecisionReason, Verdict
from handclasp.certificate_service.domain.permissions import Permission
from handclasp.certificate_service.storage.database import Database
from handclasp.certificate_service.storage.schema import denials
from handclasp.certificate_service.use_cases.denial_log import DenialLimits, DenialLog, Subject
from tests.unit.x509.refusals import NOW

REVOKED = Verdict(DecisionReason.REVOKED, "certificates/c1 was revoked")
MISSING = Verdict(DecisionReason.PERMISSION_MISSING, "no grant")
ALICE = Subject(
    user_id="alice",
    certificate_id="c1",
    permission=Permission.EXECUTE_INTEGRATIONS,
    resource="integrations/echo",
    relying_party="execution-server",
    peer_address="192.0.2.1",
    fingerprint="ab" * 32,
)
LIMITS = DenialLimits(keep=10, window=timedelta(seconds=60), open_records=5, flush_interval=timedelta(milliseconds=10))


class SetClock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def log(database: Database, clock: SetClock) -> DenialLog:
    return DenialLog(database, LIMITS, clock)


async def stored(database: Database) -> int:
    counted = await database.read(lambda snapshot: snapshot.fetch(select(func.count()).select_from(denials)))
    return int(counted.scalar_one())


def about(number: int) -> Subject:
    return Subject(user_id=f"user-{number}", resource="integrations/echo")


async def test_a_denial_is_explained_at_once_and_after_it_is_written(database: Database, log: DenialLog) -> None:
    identifier = log.record(REVOKED, ALICE)
    waiting = await log.explain(identifier)
    assert waiting is not None
    await log.flush()
    another_process = DenialLog(database, LIMITS, lambda: NOW)
    assert await another_process.explain(identifier) == waiting
    assert (waiting.reason, waiting.rule, waiting.count) == (REVOKED.reason, REVOKED.rule, 1)
    assert waiting.first_time == waiting.last_time == NOW
    kept = Subject(
        waiting.user_id,
        waiting.certificate_id,
        waiting.permission,
        waiting.resource,
        waiting.relying_party,
        waiting.peer_address,
        waiting.fingerprint,
    )
    assert kept == ALICE


async def test_one_before_the_caller_was_known_has_no_permission(database: Database, log: DenialLog) -> None:
    identifier = log.record(REVOKED, Subject(resource="/a.Service/Method"))
    await log.flush()
    found = await DenialLog(database, LIMITS, lambda: NOW).explain(identifier)
    assert found is not None
    assert found.permission is None


async def test_unknown_ids_are_not_explained(log: DenialLog) -> None:
    log.record(REVOKED, ALICE)
    assert await log.explain("0" * 26) is None


async def test_equal_ones_share_a_record(database: Database, log: DenialLog, clock: SetClock) -> None:
    identifiers = set()
    for _ in range(10):
        identifiers.add(log.record(REVOKED, ALICE))
        clock.now += timedelta(seconds=1)
        await log.flush()
    assert len(identifiers) == 1
    found = await DenialLog(database, LIMITS, clock).explain(identifiers.pop())
    assert found is not None
    assert found.count == 10
    assert (found.first_time, found.last_time) == (NOW, NOW + timedelta(seconds=9))
    assert await stored(database) == 1


async def test_different_ones_do_not(log: DenialLog) -> None:
    elsewhere = Subject(user_id="alice", certificate_id="c1", peer_address="192.0.2.2")
    made = {log.record(REVOKED, ALICE), log.record(MISSING, ALICE), log.record(REVOKED, elsewhere)}
    assert len(made) == 3


async def test_after_the_window_a_new_record_begins(database: Database, log: DenialLog, clock: SetClock) -> None:
    first = log.record(REVOKED, ALICE)
    await log.flush()
    clock.now += LIMITS.window
    assert log.record(REVOKED, ALICE) == first
    clock.now += timedelta(microseconds=1)
    await log.flush()
    second = log.record(REVOKED, ALICE)
    assert second != first
    await log.flush()
    counts = [getattr(await log.explain(identifier), "count", None) for identifier in (first, second)]
    assert counts == [2, 1]


async def test_a_flood_of_different_ones_is_counted_by_reason(database: Database, log: DenialLog) -> None:
    named = [log.record(REVOKED, about(number)) for number in range(LIMITS.open_records)]
    assert len(set(named)) == LIMITS.open_records
    flood = {log.record(REVOKED, about(number)) for number in range(100, 200)}
    other = {log.record(MISSING, about(number)) for number in range(100, 200)}
    assert len(flood) == len(other) == 1
    # Those that have a record still count there.
    assert log.record(REVOKED, about(0)) == named[0]

    found = await log.explain(flood.pop())
    assert found is not None
    assert (found.reason, found.count, found.user_id, found.resource) == (DecisionReason.REVOKED, 100, "", "")
    assert REVOKED.rule in found.rule
    await log.flush()
    assert await stored(database) == LIMITS.open_records + 2


async def test_no_more_are_kept_than_the_limit_says(database: Database, log: DenialLog, clock: SetClock) -> None:
    made = []
    for number in range(LIMITS.keep + 4):
        made.append(log.record(REVOKED, about(number)))
        clock.now += LIMITS.window + timedelta(seconds=1)
        await log.flush()
    assert await stored(database) == LIMITS.keep
    found = [await log.explain(identifier) is not None for identifier in made]
    assert found == [False] * 4 + [True] * LIMITS.keep


async def test_what_could_not_be_written_is_kept_and_written_later(
    database: Database, log: DenialLog, clock: SetClock
) -> None:
    identifier = log.record(REVOKED, ALICE)
    async with database.writer.begin() as connection:
        await connection.execute(text("ALTER TABLE denials RENAME TO elsewhere"))
    with pytest.raises(DBAPIError):
        await log.flush()
    # Not even the end of its window loses it.
    clock.now += 2 * LIMITS.window
    with pytest.raises(DBAPIError):
        await log.flush()
    assert log.record(REVOKED, ALICE) == identifier
    async with database.writer.begin() as connection:
        await connection.execute(text("ALTER TABLE elsewhere RENAME TO denials"))
    await log.flush()
    found = await DenialLog(database, LIMITS, clock).explain(identifier)
    assert found is not None
    assert found.count == 2


async def test_those_recorded_while_others_are_written_are_written_next(database: Database, log: DenialLog) -> None:
    identifier = log.record(REVOKED, ALICE)
    writing = asyncio.create_task(log.flush())
    await asyncio.sleep(0)
    assert log.record(REVOKED, ALICE) == identifier
    other = log.record(MISSING, ALICE)
    await writing
    await log.flush()
    fresh = DenialLog(database, LIMITS, lambda: NOW)
    counts = [getattr(await fresh.explain(name), "count", None) for name in (identifier, other)]
    assert counts == [2, 1]


async def test_they_are_written_by_themselves_and_go_on_after_a_failure(database: Database, log: DenialLog) -> None:
    async with database.writer.begin() as connection:
        await connection.execute(text("ALTER TABLE denials RENAME TO elsewhere"))
    running = asyncio.create_task(log.run())
    try:
        identifier = log.record(REVOKED, ALICE)
        await asyncio.sleep(0.05)
        assert not running.done()
        async with database.writer.begin() as connection:
            await connection.execute(text("ALTER TABLE elsewhere RENAME TO denials"))
        while await stored(database) == 0:  # noqa: ASYNC110 - only the database shows it
            await asyncio.sleep(0.01)
        assert await DenialLog(database, LIMITS, lambda: NOW).explain(identifier) is not None
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
