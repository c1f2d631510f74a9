"""The change feed: in order, without gaps, bounded."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from sqlalchemy.exc import OperationalError
from structlog.testing import capture_logs

from handclasp.certificate_service.domain.changes import BEGINNING, Change, Effect, Position, Revision, joined
from handclasp.certificate_service.storage.database import Database, Transaction
from handclasp.certificate_service.watching.feed import ChangeFeed
from handclasp.errors import Unavailable


def revision(number: int, *names: str, mark: int | None = None, effect: Effect = Effect.WITHDRAWN) -> Revision:
    changes = tuple(Change(name, effect) for name in names or (f"users/u{number}",))
    return Revision(Position(number, number * 7 if mark is None else mark), changes)


class StoredHistory:
    """A history that a test writes; fails as often as it is told to."""

    def __init__(self) -> None:
        self.revisions: list[Revision] = []
        self.kept_from = 1
        self.failures = 0

    @property
    def head(self) -> Position:
        return self.revisions[-1].position if self.revisions else BEGINNING

    async def history(self, *, after: int, limit: int) -> list[Revision]:
        await asyncio.sleep(0)
        if self.failures:
            self.failures -= 1
            raise OperationalError("SELECT", {}, Exception("the test says so"))
        return [one for one in self._kept() if one.position.revision > after][:limit]

    async def newest_history(self, *, limit: int) -> tuple[Position, list[Revision]]:
        await asyncio.sleep(0)
        return self.head, self._kept()[-limit:]

    def _kept(self) -> list[Revision]:
        return [one for one in self.revisions if one.position.revision >= self.kept_from]


@pytest_asyncio.fixture
async def stored() -> StoredHistory:
    return StoredHistory()


@pytest_asyncio.fixture
async def feed(stored: StoredHistory) -> AsyncIterator[ChangeFeed]:
    feed = ChangeFeed(stored, capacity=10)
    await feed.open()
    yield feed
    await feed.close()


def commit(stored: StoredHistory, feed: ChangeFeed, number: int, *, told: bool = True) -> Revision:
    one = revision(number)
    stored.revisions.append(one)
    if told:
        feed.committed(one)
    return one


async def test_what_is_committed_is_published_at_once(stored: StoredHistory, feed: ChangeFeed) -> None:
    woken: list[int] = []
    stop = feed.watch(lambda: woken.append(feed.head.revision))
    for number in (1, 2, 3):
        commit(stored, feed, number)
    assert woken == [1, 2, 3]
    stop()
    commit(stored, feed, 4)
    assert woken == [1, 2, 3]
    assert feed.since(revision(2).position) == stored.revisions[2:]


async def test_a_revision_that_nobody_told_of_is_read_before_the_next_one_is_published(
    stored: StoredHistory, feed: ChangeFeed
) -> None:
    commit(stored, feed, 1)
    commit(stored, feed, 2, told=False)
    third = commit(stored, feed, 3)
    assert feed.head.revision == 1, "not before the one in between"
    await feed.reached(revision(3).position)
    assert feed.since(revision(1).position) == [revision(2), third]


async def test_a_commit_in_doubt_is_looked_up(stored: StoredHistory, feed: ChangeFeed) -> None:
    commit(stored, feed, 1, told=False)
    stored.failures = 1
    before = feed.known_head
    feed.in_doubt()
    assert (before, feed.known_head) == (feed.head.revision, None)
    await feed.reached(revision(1).position)
    assert feed.head == revision(1).position


async def test_a_fault_that_nobody_foresaw_is_logged_and_tried_again(
    stored: StoredHistory, feed: ChangeFeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits for it would wait for ever, and nobody would know."""
    commit(stored, feed, 1, told=False)
    history, failed = stored.history, False

    async def once_unreadable(*, after: int, limit: int) -> list[Revision]:
        nonlocal failed
        if not failed:
            failed = True
            raise ValueError("'TRANSFERRED' is not a valid Effect")
        return await history(after=after, limit=limit)

    monkeypatch.setattr(stored, "history", once_unreadable)
    with capture_logs() as logs:
        async with asyncio.timeout(10):
            await feed.reached(revision(1).position)
    assert [entry["event"] for entry in logs] == ["history_not_read"]


async def test_what_is_committed_while_it_catches_up_comes_once_and_in_order(
    stored: StoredHistory, feed: ChangeFeed
) -> None:
    commit(stored, feed, 1, told=False)
    feed.in_doubt()
    for number in range(2, 8):
        commit(stored, feed, number)
        await asyncio.sleep(0)
    await feed.reached(revision(7).position)
    assert feed.since(BEGINNING) == stored.revisions


@pytest.mark.parametrize(
    ("position", "known"),
    [
        (BEGINNING, False),
        (revision(10).position, False),
        (revision(11).position, True),
        (revision(20).position, True),
        (Position(15, 1), False),
        (Position(20, 1), False),
        (Position(21, 147), False),
        (Position(-3, 0), False),
        (Position(2**62, 0), False),
        (Position(-1, 0), False),
        (Position(-(2**63), 0), False),
        (Position(2**63 - 1, 0), False),
    ],
)
async def test_it_resumes_from_what_it_keeps_and_no_other_history(
    stored: StoredHistory, feed: ChangeFeed, position: Position, known: bool
) -> None:
    for number in range(1, 21):
        commit(stored, feed, number)
    found = feed.since(position)
    assert (found is not None) == known
    if found is not None:
        assert [one.position.revision for one in found] == list(range(position.revision + 1, 21))


async def test_from_the_beginning_it_resumes_while_all_is_kept(stored: StoredHistory, feed: ChangeFeed) -> None:
    assert feed.since(BEGINNING) == ()
    for number in range(1, 11):
        commit(stored, feed, number)
    assert feed.since(BEGINNING) == stored.revisions
    commit(stored, feed, 11)
    assert feed.since(BEGINNING) is None


async def test_what_is_not_kept_any_more_makes_it_begin_anew(stored: StoredHistory, feed: ChangeFeed) -> None:
    commit(stored, feed, 1)
    for number in range(2, 31):
        commit(stored, feed, number, told=False)
    stored.kept_from = 25
    await feed.reached(revision(30).position)
    assert feed.head.revision == 30
    assert feed.since(revision(1).position) is None
    assert feed.since(revision(26).position) == stored.revisions[26:]


async def go_back(stored: StoredHistory, feed: ChangeFeed) -> list[int]:
    """Ten revisions are told of, and the database comes back with seven. Returns what the feed says of that, later."""
    for number in range(1, 11):
        commit(stored, feed, number)
    stored.revisions = stored.revisions[:7]
    parted: list[int] = []
    feed.on_parted(lambda: parted.append(feed.head.revision))
    return parted


async def test_it_follows_a_history_that_went_back(stored: StoredHistory, feed: ChangeFeed) -> None:
    parted = await go_back(stored, feed)
    told = revision(10).position
    number = feed.history_number
    other = revision(8, mark=1)
    stored.revisions.append(other)
    feed.committed(other)
    await feed.reached(other.position)
    assert feed.head == other.position
    assert parted == [8]
    assert feed.history_number != number
    assert feed.since(told) is None
    assert feed.since(revision(7).position) == [other], "up to there it is the same"


async def test_another_history_that_has_come_as_far_is_not_taken_for_the_next_part(
    stored: StoredHistory, feed: ChangeFeed
) -> None:
    parted = await go_back(stored, feed)
    stored.revisions += [revision(number, mark=number) for number in (8, 9, 10)]
    stored.revisions.append(revision(11, mark=11))
    feed.committed(Revision(Position(11, 11), revision(11).changes, previous_mark=10))
    await feed.reached(Position(11, 11))
    assert parted == [11]
    assert feed.since(revision(10).position) is None
    found = feed.since(revision(7).position)
    assert found is not None
    assert [one.position.mark for one in found] == [8, 9, 10, 11]


async def test_what_is_lost_is_not_waited_for(stored: StoredHistory, feed: ChangeFeed) -> None:
    parted = await go_back(stored, feed)
    for position in (Position(8, 1), revision(11).position, Position(2**40, 0)):
        with pytest.raises(Unavailable):
            await asyncio.wait_for(feed.reached(position), 10)
    assert parted == [7]


async def test_what_is_lost_is_not_waited_for_however_much_is_said_meanwhile(
    stored: StoredHistory, feed: ChangeFeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others commit all the time, and each time that something was read there is more."""
    await go_back(stored, feed)
    history = stored.history

    async def told_of_more(*, after: int, limit: int) -> list[Revision]:
        found = await history(after=after, limit=limit)
        feed.heard(str(feed.head.revision + 1))
        return found

    monkeypatch.setattr(stored, "history", told_of_more)
    with pytest.raises(Unavailable):
        await asyncio.wait_for(feed.reached(Position(8, 1)), 5)


async def test_a_last_position_below_what_was_published_shows_that_the_database_went_back(
    stored: StoredHistory, feed: ChangeFeed
) -> None:
    """Nothing was committed since: the position is one that was published long ago."""
    parted = await go_back(stored, feed)
    await feed.reached(revision(7).position)
    assert parted == [], "it may have been read before the others were committed"
    await asyncio.wait_for(feed.reached(revision(7).position, least=10), 10)
    assert parted == [7]
    assert feed.head == revision(7).position


async def test_a_look_shows_that_the_database_went_back(stored: StoredHistory, feed: ChangeFeed) -> None:
    parted = await go_back(stored, feed)
    await asyncio.wait_for(feed.look(), 10)
    assert parted == [7]


async def test_each_revision_says_what_it_follows(database: Database) -> None:
    """Also one that is made while others are."""
    told: list[Revision] = []

    class Told:
        def committed(self, revision: Revision) -> None:
            told.append(revision)

        def in_doubt(self) -> None:
            raise AssertionError

    async def touch(transaction: Transaction) -> None:
        transaction.touch("users/a", Effect.ALTERED)

    database.tell(Told())
    for _ in range(3):
        await database.write(touch)
    assert [one.previous_mark for one in told] == [0, *(one.position.mark for one in told[:-1])]
    stored = await database.history(after=0, limit=10)
    assert [one.position for one in stored] == [one.position for one in told]


async def test_a_storm_is_read_in_bounded_memory_by_one_that_does_not_keep_up(stored: StoredHistory) -> None:
    """Ten thousand changes in one go, and a watcher that looks only at the end."""
    feed = ChangeFeed(stored, capacity=1_000)
    await feed.open()
    fast, slow = [BEGINNING], BEGINNING
    seen = 0

    def look() -> None:
        nonlocal seen
        found = feed.since(fast[0])
        assert found is not None
        seen += len(found)
        fast[0] = feed.head

    feed.watch(look)
    tracemalloc.start()
    for number in range(1, 1_001):
        feed.committed(revision(number))
    full = tracemalloc.get_traced_memory()[0]
    for number in range(1_001, 10_001):
        feed.committed(revision(number))
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert seen == 10_000
    assert feed.since(slow) is None, "it begins anew, instead of being kept what it did not take"
    assert after < 1.5 * full, (full, after)
    await feed.close()


def test_joined_changes_keep_all_effects() -> None:
    """Rule 17."""
    held, reinstated = revision(1, "certificates/c"), revision(2, "certificates/c", effect=Effect.GIVEN)
    other = revision(3, "certificates/d", effect=Effect.GIVEN)
    assert joined([held, reinstated, other]) == {
        "certificates/c": {Effect.WITHDRAWN, Effect.GIVEN},
        "certificates/d": {Effect.GIVEN},
    }


async def test_the_database_moves_it_within_each_transaction(database: Database) -> None:
    """Rule 14, as far as one process can see it: one revision for each commit, none for what was rolled back."""
    feed = ChangeFeed(database)
    database.tell(feed)
    await feed.open()

    async def touch(transaction: Transaction, name: str) -> None:
        transaction.touch(name, Effect.ALTERED)

    async def fail(transaction: Transaction) -> None:
        transaction.touch("users/nobody", Effect.ALTERED)
        raise RuntimeError

    (_, first) = await database.write_at_position(lambda transaction: touch(transaction, "users/a"))
    with pytest.raises(RuntimeError):
        await database.write(fail)
    together = [database.write_at_position(lambda transaction, n=n: touch(transaction, f"users/{n}")) for n in "bcd"]  # type: ignore[misc]
    revisions = {position.revision for _, position in await asyncio.gather(*together)}
    assert first.revision == 1
    assert feed.head.revision == max(revisions)
    found = feed.since(BEGINNING)
    assert found is not None
    assert [change.name for one in found for change in one.changes] == [f"users/{name}" for name in "abcd"]
    assert [one.position.revision for one in found] == list(range(1, len(found) + 1))
    # What it was told is what is stored, for whoever starts next.
    restarted = ChangeFeed(database)
    await restarted.open()
    assert restarted.head == feed.head
    assert restarted.since(BEGINNING) == found


async def test_who_changes_nothing_learns_where_the_history_is(database: Database) -> None:
    async def touch(transaction: Transaction) -> None:
        transaction.touch("users/a", Effect.ALTERED)

    async def look(_: Transaction) -> None:
        return None

    _, changed = await database.write_at_position(touch)
    assert await database.write_at_position(look) == (None, changed)
