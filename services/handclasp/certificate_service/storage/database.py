"""The database: opened by URL, read in snapshots, written by group commit.

SQLite has one writer at a time and syncs its log at each commit; PostgreSQL syncs at each commit, too. Concurrent
calls that write therefore share transactions: see `group_commit.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

from sqlalchemy import Executable, Result, event, make_url
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry, QueuePool

from handclasp.certificate_service.domain.changes import Change, Effect, Position, Revision
from handclasp.certificate_service.storage.figures import DatabaseFigures
from handclasp.certificate_service.storage.group_commit import GroupCommit
from handclasp.certificate_service.storage.notifications import say
from handclasp.certificate_service.storage.revisions import (
    advance,
    lock_head,
    read_head,
    read_newest_revisions,
    read_revisions,
)
from handclasp.certificate_service.storage.sqlite import (
    connect_for_lookups,
    connect_for_writing,
    connect_in_thread,
    tell_what_is_brief,
)
from handclasp.certificate_service.storage.writing import Writing, write_fault
from handclasp.errors import HandclaspError, Reason, Unavailable

T = TypeVar("T")

# Marks SQLite connections that are to see each commit at once. SQLAlchemy's own AUTOCOMMIT would, when such a
# connection is given back, have the driver begin transactions by itself again.
_NO_BEGIN = "handclasp_no_begin"

# How long PostgreSQL may take to answer a new connection, or a free one be waited for; and how long what was sent to it
# may stay unacknowledged.
_CONNECT_SECONDS = 5
_SILENCE_SECONDS = 10

IDLE_SECONDS = 2.0
"""How long PostgreSQL waits for the next statement of a transaction that writes. A process that is frozen in one, or
cut off, holds locks that all others wait for: after so long it is rolled back, and its connection is closed."""

LOCK_SECONDS = 10.0
"""How long a transaction that writes waits for a lock, which somebody else may hold without an end."""

# A connection to a server that is read-only, or was when it was made (read_only_sql_transaction).
_READ_ONLY = "25006"

# Marks PostgreSQL's connections that write.
_WRITES = "handclasp_writes"

# How long SQLite waits for a lock held by another process, such as a backup.
_SQLITE_BUSY_SECONDS = 10


class Snapshot:
    """Reads within one transaction: all see the same state."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def fetch(self, statement: Executable, parameters: Any = None) -> Result[Any]:
        """Runs a query."""
        return await self._connection.execute(statement, parameters)


class Transaction(Snapshot):
    """Reads and writes that are committed together, or not at all."""

    wrote = False
    wants_position = False

    def __init__(self, connection: AsyncConnection, *, shared: bool) -> None:
        super().__init__(connection)
        self.changes: list[Change] = []
        self._is_alone = shared

    def touch(self, name: str, effect: Effect) -> None:
        """Says that something changed that decisions can rest on. The revision moves with the commit.

        Args:
            name: a resource name: of a certificate, user, access profile, trust anchor or CA.
        """
        self.changes.append(Change(name, effect))

    async def alone(self) -> None:
        """From here on nobody else commits a change, in whatever process, until this is over.

        Before whatever is read and then changed by it, so that no other process changes it in between. And first of
        all: two processes would wait for each other if one of them had changed a row before, and the other one, which
        is alone, were about to.
        """
        if not self._is_alone:
            await lock_head(self._connection)
            self._is_alone = True

    async def execute(self, statement: Executable, parameters: Any = None) -> Result[Any]:
        """Runs a statement that changes something."""
        self.wrote = True
        return await self._connection.execute(statement, parameters)


class CommitListener(Protocol):
    """Whoever has to know of each change that is committed."""

    def committed(self, revision: Revision) -> None:
        """Told right after the commit, in the order of revisions; some may be left out after `in_doubt`."""

    def in_doubt(self) -> None:
        """Told if something may have been committed that `committed` is not told of."""


class _Revisions:
    """Ends each transaction that has changes by moving the revision."""

    def __init__(self) -> None:
        self.listener: CommitListener | None = None

    async def share(self, connection: AsyncConnection) -> None:
        """Of the pieces that share a transaction, one that wants to be alone may come after one that changed a row."""
        await lock_head(connection)

    async def seal(self, connection: AsyncConnection, pieces: Sequence[Transaction]) -> Revision | None:
        """The transaction's revision. Without changes: where the history is, if somebody wants to know."""
        changes = tuple(change for piece in pieces for change in piece.changes)
        if changes:
            return await advance(connection, changes)
        if any(piece.wants_position for piece in pieces):
            return Revision(await read_head(connection), ())
        return None

    def sealed(self, seal: Revision | None) -> None:
        if seal is not None and seal.changes and self.listener is not None:
            self.listener.committed(seal)

    def in_doubt(self) -> None:
        if self.listener is not None:
            self.listener.in_doubt()


class Database:
    """Snapshots, single queries, and the group commit; made by `open_database`.

    Args:
        snapshots: each of its transactions sees one state.
        queries: each query sees what is committed by then; it has no transactions.
        lookups: the same, for queries that find a few rows by index.
        writer: commits are on disk when they return.
        commits: the same, within the limits that transactions have while the service runs.
        writing: hears of what fails on those engines.
        shared: whether other processes may serve it, too.
        readers: how many may read at once for callers, if all of these engines share their connections; None if not.

    Attributes:
        figures: what was counted since the start.
        writing: whether it can be written to.
    """

    def __init__(
        self,
        *,
        snapshots: AsyncEngine,
        queries: AsyncEngine,
        lookups: AsyncEngine,
        writer: AsyncEngine,
        commits: AsyncEngine,
        writing: Writing,
        batch: int,
        shared: bool,
        readers: int | None = None,
    ) -> None:
        self.figures = DatabaseFigures()
        self.writing = writing
        self._readers = None if readers is None else asyncio.Semaphore(readers)
        self._snapshots = snapshots
        self._queries = queries
        self._lookups = lookups
        self._writer = writer
        self._revisions = _Revisions()
        self._shared = shared
        self._apart = commits
        self._commits = GroupCommit(commits, Transaction, self._revisions, batch=batch, figures=self.figures)

    def tell(self, listener: CommitListener) -> None:
        """Has a listener, the only one, told of each change from now on."""
        self._revisions.listener = listener

    @property
    def shared(self) -> bool:
        """Whether other processes may serve the database, too: on PostgreSQL, not on SQLite."""
        return self._shared

    def connections(self) -> dict[str, tuple[int, int]]:
        """How many connections of each pool are in use, and how many it has at most, by the pool's name."""
        engines = (
            {"shared": self._writer}
            if self._shared
            else {"read": self._snapshots, "lookup": self._lookups, "write": self._writer}
        )
        pools = ((name, engine.sync_engine.pool) for name, engine in engines.items())
        return {name: (pool.checkedout(), pool.size()) for name, pool in pools if isinstance(pool, QueuePool)}

    async def say(self, channel: str, text: str) -> None:
        """Tells the other processes that serve a shared database."""
        async with self._queries.connect() as connection:
            await say(connection, channel, text)

    @property
    def writer(self) -> AsyncEngine:
        """For migrations."""
        return self._writer

    def lookups(self) -> AsyncConnection:
        """A connection of one's own, not yet connected, on which each query sees what is committed by then.

        For queries that find a few rows by index: those of SQLite hold up the event loop.
        """
        return self._lookups.connect()

    async def read(self, work: Callable[[Snapshot], Awaitable[T]]) -> T:
        """Runs `work` on a snapshot. It sees every write that returned before."""
        with self.figures.timed("read"):
            async with self._turn(), self._snapshots.begin() as connection:
                return await work(Snapshot(connection))

    async def query(self, work: Callable[[Snapshot], Awaitable[T]]) -> T:
        """The same for `work` that makes a single query, and so needs no transaction to see one state."""
        async with self._turn():
            return await self.query_apart(work)

    async def query_apart(self, work: Callable[[Snapshot], Awaitable[T]]) -> T:
        """The same, and does not wait for what reads for callers. For what must not be late."""
        with self.figures.timed("read"):
            async with self._queries.connect() as connection:
                return await work(Snapshot(connection))

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Leaves connections for what must not be late, however many calls read: lease, group commit, barrier."""
        if self._readers is None:
            yield
            return
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                await self._readers.acquire()
        except TimeoutError:
            raise PoolTimeoutError("too many calls read at once") from None
        try:
            yield
        finally:
            self._readers.release()

    async def write(
        self, work: Callable[[Transaction], Awaitable[T]], committed: Callable[[T], None] = lambda _: None
    ) -> T:
        """Runs `work` in a transaction that may be shared with others, and returns once it is on disk.

        `work` may be run again, from its beginning and in a transaction of its own, if the shared one did not work out;
        it must have no effects but through its argument. A typed error it raises undoes it, and is raised here.

        Args:
            committed: told the result right after the commit, also if whoever waits here has left by then. For what
                must follow a change: the line in the log, and others that have to know.
        """
        result, _ = await self._commits.submit(work, committed)
        return result

    async def write_apart(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        """Runs `work` in a transaction of its own, which waits for no other one here.

        For what must not be late, and changes nothing that decisions rest on.
        """
        with self.figures.timed("write"):
            async with self._apart.begin() as connection:
                return await work(Transaction(connection, shared=False))

    async def write_at_position(
        self, work: Callable[[Transaction], Awaitable[T]], committed: Callable[[T], None] = lambda _: None
    ) -> tuple[T, Position]:
        """The same, alone from the beginning; and a position that includes what `work` changed, or found to be so
        already."""

        async def located(transaction: Transaction) -> T:
            transaction.wants_position = True
            await transaction.alone()
            return await work(transaction)

        result, revision = await self._commits.submit(located, committed)
        if revision is None:
            raise RuntimeError("a transaction that wants its position was sealed without one")
        return result, revision.position

    async def history(self, *, after: int, limit: int) -> list[Revision]:
        """Revisions above that one which are committed and still kept, oldest first."""
        async with self._queries.connect() as connection:
            return await read_revisions(connection, after=after, limit=limit)

    async def history_head(self) -> Position:
        """Where the history is by now."""
        async with self._queries.connect() as connection:
            return await read_head(connection)

    async def newest_history(self, *, limit: int) -> tuple[Position, list[Revision]]:
        """Where the history is, and its newest revisions, oldest first; both at one moment."""
        async with self._snapshots.begin() as connection:
            return await read_head(connection), await read_newest_revisions(connection, limit=limit)

    async def close(self) -> None:
        await self._commits.close()
        # Those that share a pool dispose of it more than once, which does no harm.
        for engine in (self._snapshots, self._queries, self._lookups, self._writer):
            await engine.dispose()


def open_database(url: str, *, batch: int = 128, readers: int = 4) -> Database:
    """A database by SQLAlchemy URL: `sqlite+aiosqlite:///FILE` or `postgresql+psycopg://...`. Connects when used.

    Args:
        batch: how many writes may share a commit.
        readers: how many snapshots may be read at once; more wait.

    Raises:
        ValueError: the URL is of another kind.
    """
    parts = make_url(url)
    kind = parts.get_backend_name()
    if kind == "sqlite":
        engine = _sqlite_engine(url, "BEGIN", size=readers)
        lookups = _sqlite_engine(url, "BEGIN", size=2, connect=connect_for_lookups)
        writer = _sqlite_engine(url, "BEGIN IMMEDIATE", size=1, connect=connect_for_writing)
        tell_what_is_brief(writer.sync_engine)
        writing = Writing(Path(parts.database).parent if parts.database else None)
        writing.observe(writer.sync_engine)
        return Database(
            snapshots=engine,
            queries=engine.execution_options(**{_NO_BEGIN: True}),
            lookups=lookups.execution_options(**{_NO_BEGIN: True}),
            writer=writer,
            commits=writer,
            writing=writing,
            batch=batch,
            shared=False,
        )
    if kind == "postgresql":
        engine = create_async_engine(
            url,
            # A database that vanished without a word is given up on, instead of waited for by every call.
            connect_args={
                "connect_timeout": _CONNECT_SECONDS,
                "tcp_user_timeout": _SILENCE_SECONDS * 1000,
                # Also of one that has received a statement, and not answered it: without these, in two hours.
                "keepalives_idle": 5,
                "keepalives_interval": 2,
                "keepalives_count": 2,
            },
            # One for the group commit, one for the lease, and those that facts are looked up on.
            pool_size=readers + 4,
            max_overflow=0,
            pool_timeout=_CONNECT_SECONDS,
            pool_pre_ping=True,
            # Of the writer. Whoever waited for the head's lock has to see what the one before committed, and to move on
            # from there, whatever the database's own default is.
            isolation_level="READ COMMITTED",
            hide_parameters=True,
        )
        _limit_transactions(engine)
        writing = Writing(None)
        writing.observe(engine.sync_engine)
        # All are derived from the same engine: options of an engine derived from another one come after its own.
        queries = engine.execution_options(isolation_level="AUTOCOMMIT")
        return Database(
            snapshots=engine.execution_options(isolation_level="REPEATABLE READ"),
            queries=queries,
            lookups=queries,
            writer=engine,
            commits=engine.execution_options(**{_WRITES: True}),
            writing=writing,
            batch=batch,
            shared=True,
            readers=readers,
        )
    raise ValueError(f"a database of the kind '{kind}' is not supported; use sqlite+aiosqlite or postgresql+psycopg")


def storage_error(error: Exception) -> HandclaspError | None:
    """What callers are told when the database fails; None if the error is not the database's."""
    if isinstance(error, SQLAlchemyError):
        fault = write_fault(error)
        if fault is not None:
            return Unavailable(
                Reason.STORAGE_UNAVAILABLE,
                f"nothing can be changed right now, since {fault}; have the certificate service's operator mend that,"
                " and try again",
            )
        return Unavailable(
            Reason.STORAGE_UNAVAILABLE,
            "the certificate service cannot use its database right now; try again, and if it lasts have its operator"
            " look at the service's log",
        )
    return None


def _limit_transactions(engine: AsyncEngine) -> None:
    @event.listens_for(engine.sync_engine, "begin")
    def on_begin(connection: Any) -> None:
        if connection.get_execution_options().get(_WRITES):
            # For this transaction only, since a pooler may give the connection to others after it.
            limits = {"lock_timeout": LOCK_SECONDS, "idle_in_transaction_session_timeout": IDLE_SECONDS}
            calls = (f"set_config('{name}', '{round(seconds * 1000)}', true)" for name, seconds in limits.items())
            connection.exec_driver_sql(f"SELECT {', '.join(calls)}")

    @event.listens_for(engine.sync_engine, "handle_error")
    def on_error(context: ExceptionContext) -> None:
        if getattr(context.original_exception, "sqlstate", None) == _READ_ONLY:
            # Another server may be the one to write to by now, and sessions can stay read-only when theirs is not.
            context.is_disconnect = True


def _sqlite_engine(
    url: str, begin: str, *, size: int, connect: Callable[..., Awaitable[Any]] = connect_in_thread
) -> AsyncEngine:
    engine = create_async_engine(
        url,
        connect_args={"async_creator_fn": connect},
        pool_size=size,
        max_overflow=0,
        pool_reset_on_return=None,
        hide_parameters=True,
    )

    @event.listens_for(engine.sync_engine, "connect")
    def on_connect(connection: Any, record: ConnectionPoolEntry) -> None:  # noqa: ARG001
        # Left to itself, the driver begins transactions when it sees fit; `on_begin` does it instead.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {_SQLITE_BUSY_SECONDS * 1000}")
        cursor.execute("PRAGMA journal_mode = WAL")
        # In WAL mode only FULL syncs at each commit: what was acknowledged survives a power cut.
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def on_begin(connection: Any) -> None:
        if not connection.get_execution_options().get(_NO_BEGIN):
            connection.exec_driver_sql(begin)

    return engine
