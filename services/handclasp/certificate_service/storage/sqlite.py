"""SQLite connections that go to their thread no more often than they must.

`aiosqlite` gives each connection a thread, and goes there for each step of a statement: to make a cursor, execute,
fetch and close. Each time costs as much as many a statement, since two threads pass the interpreter back and forth.
Here a statement is one visit, or none if it is done at once.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Self, TypeAlias

import aiosqlite
from sqlalchemy import Connection, Engine, event

Work: TypeAlias = Callable[[sqlite3.Connection], None]

BRIEF = "handclasp_brief"
"""An execution option of statements that neither wait nor change many rows, so that a writer need not go to its thread
for them. What selects and inserts is taken for such."""

_CHUNK = 64  # rows; for iterating over a cursor of aiosqlite's own, which nobody does


def connect_in_thread(*arguments: Any, **options: Any) -> Awaitable[aiosqlite.Connection]:
    """A connection whose statements run in its thread, one visit each. Takes what `sqlite3.connect` takes."""
    return _opened(StatementConnection, arguments, options)


def connect_for_lookups(*arguments: Any, **options: Any) -> Awaitable[aiosqlite.Connection]:
    """A connection whose statements run where they are awaited, and hold up the event loop meanwhile.

    For reading a few rows by index, which takes microseconds. In WAL mode a reader waits for nobody.
    """
    return _opened(LookupConnection, arguments, options)


def connect_for_writing(*arguments: Any, **options: Any) -> Awaitable[aiosqlite.Connection]:
    """A connection that begins and commits in its thread, because it waits for locks and for the disk then, and runs
    what is brief in between where it is awaited: to be told by `tell_what_is_brief`."""
    return _opened(WriterConnection, arguments, options)


def tell_what_is_brief(engine: Engine) -> None:
    """Has the connections of a writer's engine know of each statement whether it is brief."""

    @event.listens_for(engine, "before_cursor_execute", named=True)
    def on_execute(conn: Connection, context: Any, **_: Any) -> None:
        compiled = context.compiled
        brief = compiled is not None and (
            compiled.statement.is_select or compiled.statement.is_insert or BRIEF in context.execution_options
        )
        writer: Any = conn.connection.driver_connection
        writer.next_is_brief = brief


class StatementConnection(aiosqlite.Connection):
    """What SQLAlchemy's dialect needs of a connection, with cursors that do all of a statement at once."""

    def cursor(self) -> StatementCursor:  # type: ignore[override]  # aiosqlite's visits the thread to make one
        return StatementCursor(self._run)

    async def _run(self, work: Work) -> None:
        await self._execute(work, self._conn)  # type: ignore[no-untyped-call]


class LookupConnection(StatementConnection):
    """Runs statements in the thread that awaits them."""

    async def _run(self, work: Work) -> None:
        work(self._conn)


class WriterConnection(StatementConnection):
    """Runs those statements in the thread that awaits them that neither wait nor change many rows."""

    next_is_brief = False

    async def _run(self, work: Work) -> None:
        brief, self.next_is_brief = self.next_is_brief, False
        if brief:
            work(self._conn)
        else:
            await self._execute(work, self._conn)  # type: ignore[no-untyped-call]


class StatementCursor:
    """The result of one statement, all of it fetched. Closing it has nothing left to do.

    Args:
        run: runs the work of a statement on the connection.
    """

    arraysize = 1

    def __init__(self, run: Callable[[Work], Awaitable[None]]) -> None:
        self._run = run
        self._rows: Sequence[Any] = ()
        self.description: Any = None
        self.rowcount = -1
        self.lastrowid: int | None = None

    async def __aenter__(self) -> Self:
        return self

    async def execute(self, statement: str, parameters: Sequence[Any] = ()) -> Self:
        """Executes and fetches."""
        await self._run(lambda connection: self._take(connection.execute(statement, parameters)))
        return self

    async def executemany(self, statement: str, parameters: Sequence[Sequence[Any]]) -> Self:
        """Executes once for each of the parameters."""
        await self._run(lambda connection: self._take(connection.executemany(statement, parameters)))
        return self

    async def fetchall(self) -> Sequence[Any]:
        """All rows, once."""
        rows, self._rows = self._rows, ()
        return rows

    async def close(self) -> None:
        """Was done when the statement was."""

    def _take(self, cursor: sqlite3.Cursor) -> None:
        self.description = cursor.description
        self._rows = cursor.fetchall() if cursor.description else ()
        # Counts the rows that `RETURNING` gave only once they are fetched.
        self.rowcount = cursor.rowcount
        self.lastrowid = cursor.lastrowid
        cursor.close()


async def _opened(
    kind: type[StatementConnection], arguments: tuple[Any, ...], options: dict[str, Any]
) -> aiosqlite.Connection:
    connection = kind(partial(sqlite3.connect, *arguments, **options), _CHUNK)
    # A connection that was not closed must not keep the process from ending.
    connection._thread.daemon = True
    try:
        return await connection
    except BaseException:
        # Its thread was told to end, and tells the event loop once it has: that must not be closed before.
        await asyncio.to_thread(connection._thread.join)
        raise
