"""Refusals that are no decisions: each is in a record, and nobody takes up another's share."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
import pytest_asyncio
from sqlalchemy import delete
from sqlalchemy.exc import OperationalError

from handclasp.certificate_service.domain.refusals import Refusal, RefusalKind, Refused
from handclasp.certificate_service.storage.database import Database, open_database
from handclasp.certificate_service.storage.migrate import migrate
from handclasp.certificate_service.storage.refusals import list_refusals
from handclasp.certificate_service.storage.schema import refusals
from handclasp.certificate_service.use_cases.refusal_records import RefusalRecordLimits, RefusalRecords
from tests.support.installation import SettableClock

LIMITS = RefusalRecordLimits(keep=1000, different=10, different_per_peer=3, window=timedelta(seconds=60))


@pytest_asyncio.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    opened = open_database(f"sqlite+aiosqlite:///{tmp_path / 'database.sqlite'}")
    await migrate(opened)
    yield opened
    await opened.close()


def call(number: int = 0, *, peer: str = "192.0.2.1", relying_party: str = "", reason: str = "NO") -> Refused:
    return Refused(RefusalKind.CALL, reason, method=f"/{number}", peer_address=peer, relying_party=relying_party)


async def written(database: Database, records: RefusalRecords) -> list[Refusal]:
    await records.try_to_flush()
    return await database.read(lambda snapshot: list_refusals(snapshot, before="", since=None, limit=1000))


async def test_one_peer_or_one_reporter_takes_up_no_other_ones_share(database: Database) -> None:
    clock = SettableClock()
    records = RefusalRecords(database, LIMITS, clock)
    for number in range(200):
        records.record(call(number))
        records.record(call(number, relying_party="shop", peer=f"198.51.100.{number}", reason=f"R{number}"), 2)
    records.record(call(peer="192.0.2.2"))
    records.record(call(peer="192.0.2.2", relying_party="other-shop"))

    found = await written(database, records)
    total: Counter[str] = Counter()
    for record in found:
        total[record.refused.relying_party] += record.count
    assert total == {"": 201, "shop": 400, "other-shop": 1}
    of_others = [record.refused for record in found if record.refused.peer_address == "192.0.2.2"]
    assert sorted(one.relying_party for one in of_others) == ["", "other-shop"]
    assert len([record for record in found if record.refused.relying_party == "shop"]) <= 2 * LIMITS.different + 1


async def test_a_record_that_was_written_goes_on_until_its_window_ends(database: Database) -> None:
    clock = SettableClock()
    records = RefusalRecords(database, LIMITS, clock)
    records.record(call())
    assert [record.count for record in await written(database, records)] == [1]
    records.record(call())
    (same,) = await written(database, records)
    assert same.count == 2
    with clock.ahead(timedelta(seconds=61)):
        await records.try_to_flush()
        records.record(call())
        assert [record.count for record in await written(database, records)] == [1, 2]


async def test_a_full_share_is_free_again_after_the_window(database: Database) -> None:
    clock = SettableClock()
    records = RefusalRecords(database, LIMITS, clock)
    for number in range(100):
        records.record(call(number))
    await records.try_to_flush()
    with clock.ahead(timedelta(seconds=61)):
        await records.try_to_flush()
        await database.write(lambda transaction: transaction.execute(delete(refusals)))
        records.record(call(1))
        (fresh,) = await written(database, records)
    assert fresh.refused == call(1)


async def test_what_cannot_be_written_waits(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    records = RefusalRecords(database, LIMITS, SettableClock())
    records.record(call())

    async def down(*_: object) -> None:
        raise OperationalError("", None, Exception())

    with monkeypatch.context() as patched:
        patched.setattr(database, "write", down)
        await records.try_to_flush()
    assert [record.count for record in await written(database, records)] == [1]
