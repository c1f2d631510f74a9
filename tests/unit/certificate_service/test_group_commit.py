"""Group commit: writes share transactions, and none pays for another's failure."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest
import pytest_asyncio
from sqlalchemy import Column as SqlColumn
from sqlalchemy import Engine, MetaData, String, Table, column, event, insert, select
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncTransaction

from handclasp.certificate_service.storage.database import Database, Transaction, open_database
from handclasp.certificate_service.storage.schema import revision_head
from handclasp.errors import AlreadyExists, HandclaspError, Reason

ITEMS = Table("items", MetaData(), SqlColumn("name", String(64), primary_key=True))


@pytest_asyncio.fixture
async def items(database_url: str) -> AsyncIterator[Database]:
    """A database with a table of names, and the head that whoever shares a transaction locks."""
    database = open_database(database_url, batch=16)
    try:
        async with database.writer.begin() as connection:
            for table in (ITEMS, revision_head):
                await connection.run_sync(table.create)
        yield database
    finally:
        await database.close()


def add(name: str) -> Callable[[Transaction], Awaitable[str]]:
    async def work(transaction: Transaction) -> str:
        await transaction.execute(insert(ITEMS).values(name=name))
        return name

    return work


def refuse(*, after: str | None = None) -> Callable[[Transaction], Awaitable[None]]:
    """Refuses at once, or after it has written."""

    async def work(transaction: Transaction) -> None:
        if after is not None:
            await add(after)(transaction)
        raise AlreadyExists(Reason.USER_EXISTS, "it exists")

    return work


async def names(database: Database) -> list[str]:
    async def work(snapshot: object) -> list[str]:
        found = await snapshot.fetch(select(ITEMS.c.name).order_by(ITEMS.c.name))  # type: ignore[attr-defined]
        return list(found.scalars())

    return await database.read(work)


@contextmanager
def counting_commits(database: Database) -> Iterator[list[None]]:
    """The list grows by one with each commit of the writer."""
    commits: list[None] = []
    engine: Engine = database.writer.sync_engine

    def on_commit(_connection: object) -> None:
        commits.append(None)

    event.listen(engine, "commit", on_commit)
    try:
        yield commits
    finally:
        event.remove(engine, "commit", on_commit)


async def test_one_after_the_other_have_a_commit_each(items: Database) -> None:
    with counting_commits(items) as commits:
        for number in range(3):
            assert await items.write(add(f"n{number}")) == f"n{number}"
            assert len(commits) == number + 1
    assert await names(items) == ["n0", "n1", "n2"]


async def test_many_at_once_share_commits(items: Database) -> None:
    wanted = sorted(f"n{number:02}" for number in range(64))
    with counting_commits(items) as commits:
        assert await asyncio.gather(*(items.write(add(name)) for name in wanted)) == wanted
    # 64 in batches of 16.
    assert len(commits) == 4
    assert await names(items) == wanted


async def test_what_returned_is_seen_by_the_next_read(items: Database) -> None:
    async def write_and_look(name: str) -> bool:
        await items.write(add(name))
        return name in await names(items)

    assert all(await asyncio.gather(*(write_and_look(f"n{number}") for number in range(24))))


async def test_they_see_what_went_before_in_the_same_commit(items: Database) -> None:
    """Checks that a work makes before it writes hold, whatever shares its transaction."""

    async def add_if_absent(transaction: Transaction) -> bool:
        found = await transaction.fetch(select(ITEMS.c.name).where(ITEMS.c.name == "only"))
        if found.first() is not None:
            raise AlreadyExists(Reason.USER_EXISTS, "it exists")
        await add("only")(transaction)
        return True

    with counting_commits(items) as commits:
        outcomes = await asyncio.gather(*(items.write(add_if_absent) for _ in range(12)), return_exceptions=True)
    assert [outcome for outcome in outcomes if outcome is True] == [True]
    assert sum(isinstance(outcome, AlreadyExists) for outcome in outcomes) == 11
    # Those that were refused had changed nothing, so nothing had to be done again.
    assert len(commits) == 1


async def test_a_refusal_before_a_write_leaves_the_others_together(items: Database) -> None:
    with counting_commits(items) as commits:
        outcomes = await asyncio.gather(
            items.write(add("a")), items.write(refuse()), items.write(add("b")), return_exceptions=True
        )
    assert outcomes[0] == "a"
    assert isinstance(outcomes[1], AlreadyExists)
    assert outcomes[2] == "b"
    assert len(commits) == 1
    assert await names(items) == ["a", "b"]


async def test_a_refusal_after_a_write_undoes_that_and_nothing_else(items: Database) -> None:
    outcomes = await asyncio.gather(
        items.write(add("a")), items.write(refuse(after="half")), items.write(add("b")), return_exceptions=True
    )
    assert isinstance(outcomes[1], AlreadyExists)
    assert (outcomes[0], outcomes[2]) == ("a", "b")
    assert await names(items) == ["a", "b"]


async def test_a_bug_after_a_write_undoes_that_and_nothing_else(items: Database) -> None:
    async def broken(transaction: Transaction) -> None:
        await add("half")(transaction)
        raise KeyError("broken")

    outcomes = await asyncio.gather(
        items.write(add("a")), items.write(broken), items.write(add("b")), return_exceptions=True
    )
    assert isinstance(outcomes[1], KeyError)
    assert await names(items) == ["a", "b"]


async def test_a_violated_constraint_is_raised_where_it_belongs(items: Database) -> None:
    await items.write(add("taken"))
    outcomes = await asyncio.gather(
        *(items.write(add(name)) for name in ("a", "taken", "b", "c", "c")), return_exceptions=True
    )
    assert outcomes[0] == "a"
    assert isinstance(outcomes[1], IntegrityError)
    assert outcomes[2:4] == ["b", "c"]
    assert isinstance(outcomes[4], IntegrityError)
    assert await names(items) == ["a", "b", "c", "taken"]


async def test_a_statement_that_fails_is_raised_where_it_belongs(items: Database) -> None:
    async def broken(transaction: Transaction) -> None:
        await transaction.fetch(select(column("nothing")).select_from(ITEMS))

    outcomes = await asyncio.gather(
        items.write(add("a")), items.write(broken), items.write(add("b")), return_exceptions=True
    )
    assert isinstance(outcomes[1], DBAPIError)
    assert not isinstance(outcomes[1], HandclaspError)
    assert await names(items) == ["a", "b"]


class Gate:
    """Work that waits inside its transaction until it is let go."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.open = asyncio.Event()

    async def work(self, transaction: Transaction) -> None:
        await add("gate")(transaction)
        self.entered.set()
        await self.open.wait()


async def test_cancelled_while_it_waits_it_is_taken_back(items: Database) -> None:
    gate = Gate()
    first = asyncio.create_task(items.write(gate.work))
    await gate.entered.wait()
    waiting = [asyncio.create_task(items.write(add(name))) for name in ("a", "b")]
    await asyncio.sleep(0)
    waiting[0].cancel()
    gate.open.set()
    await first
    assert await waiting[1] == "b"
    with pytest.raises(asyncio.CancelledError):
        await waiting[0]
    assert await names(items) == ["b", "gate"]


async def test_cancelled_once_begun_it_is_carried_through(items: Database) -> None:
    gate = Gate()
    caller = asyncio.create_task(items.write(gate.work))
    await gate.entered.wait()
    sharing = asyncio.create_task(items.write(add("after")))
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    gate.open.set()
    await sharing
    assert await names(items) == ["after", "gate"]


async def test_cancelled_while_it_waits_to_be_run_again_it_is_taken_back(items: Database) -> None:
    """The transaction that it shared did not work out, and before it comes another one whose turn takes long."""
    gate = Gate()
    times = 0

    async def broken_at_first(transaction: Transaction) -> None:
        nonlocal times
        times += 1
        if times == 1:
            raise KeyError("broken")
        await gate.work(transaction)

    first = asyncio.create_task(items.write(broken_at_first))
    sharing = [asyncio.create_task(items.write(add(name))) for name in ("a", "b")]
    await gate.entered.wait()
    sharing[0].cancel()
    await asyncio.sleep(0)
    gate.open.set()
    await asyncio.gather(first, sharing[1])
    assert await names(items) == ["b", "gate"]


async def test_what_follows_a_commit_happens_also_for_a_caller_who_left(items: Database) -> None:
    gate = Gate()
    told: list[object] = []
    caller = asyncio.create_task(items.write(gate.work, told.append))
    await gate.entered.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert told == []
    gate.open.set()
    await items.write(add("after"), told.append)
    assert len(told) == 2
    assert told[1] == "after"


async def test_nobody_is_told_of_what_was_not_committed(items: Database) -> None:
    told: list[object] = []
    results = await asyncio.gather(
        items.write(refuse(after="a"), told.append),
        items.write(refuse(), told.append),
        items.write(add("b"), told.append),
        return_exceptions=True,
    )
    assert isinstance(results[0], AlreadyExists)
    assert told == ["b"]


async def test_a_failure_of_what_follows_harms_nobody(items: Database) -> None:
    def fail(_: object) -> None:
        raise RuntimeError

    assert list(await asyncio.gather(items.write(add("a"), fail), items.write(add("b")))) == ["a", "b"]
    assert await names(items) == ["a", "b"]


async def test_closing_carries_through_what_waits(items: Database, database_url: str) -> None:
    gate = Gate()
    first = asyncio.create_task(items.write(gate.work))
    await gate.entered.wait()
    second = asyncio.create_task(items.write(add("last")))
    await asyncio.sleep(0)
    closing = asyncio.create_task(items.close())
    await asyncio.sleep(0)
    gate.open.set()
    await asyncio.gather(first, second, closing)
    again = open_database(database_url)
    try:
        assert await names(again) == ["gate", "last"]
    finally:
        await again.close()


async def test_a_database_that_fails_fails_all_and_recovers(items: Database) -> None:
    """The connection is broken under a shared transaction, and each of its works is told so or run again."""
    engine = items.writer.sync_engine
    broken = True

    def break_down(_connection: object) -> None:
        if broken:
            raise DBAPIError("COMMIT", None, OSError("the disk is full"))

    event.listen(engine, "commit", break_down)
    try:
        outcomes = await asyncio.gather(
            *(items.write(add(f"lost-{number}")) for number in range(5)), return_exceptions=True
        )
        assert all(isinstance(outcome, DBAPIError) for outcome in outcomes), outcomes
        broken = False
        assert await names(items) == []
        assert await items.write(add("kept")) == "kept"
    finally:
        event.remove(engine, "commit", break_down)
    assert await names(items) == ["kept"]


async def test_a_commit_whose_answer_is_lost_is_not_tried_again(
    items: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was carried out, and whoever made something must not be told that it was there before."""
    commit = AsyncTransaction.commit

    async def lost(self: AsyncTransaction) -> None:
        await commit(self)
        raise DBAPIError("COMMIT", None, OSError("the connection broke"))

    async def make(transaction: Transaction, name: str) -> None:
        if (await transaction.fetch(select(ITEMS).where(ITEMS.c.name == name))).one_or_none() is not None:
            raise AlreadyExists(Reason.USER_EXISTS, "it exists")
        await add(name)(transaction)

    with monkeypatch.context() as patched:
        patched.setattr(AsyncTransaction, "commit", lost)
        for wanted in (["a", "b", "c"], ["d"]):
            outcomes = await asyncio.gather(
                *(items.write(partial(make, name=name)) for name in wanted), return_exceptions=True
            )
            assert [type(outcome) for outcome in outcomes] == [DBAPIError] * len(wanted)
    assert await names(items) == ["a", "b", "c", "d"]
