"""Group commit: writes that wait at the same time share one transaction, and so one sync of the disk."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import structlog
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from handclasp.certificate_service.storage.figures import DatabaseFigures
from handclasp.errors import HandclaspError

_LOG = structlog.stdlib.get_logger(__name__)

T = TypeVar("T")
S = TypeVar("S")

# While several wait and each of these seconds brings more, it pays to wait for those too; at most so many times.
_GATHERING_SECONDS = 0.002
_GATHERING_TURNS = 10


class Writes(Protocol):
    """What a piece of work gets; `wrote` tells whether it has changed anything."""

    wrote: bool


W = TypeVar("W", bound=Writes)
W_co = TypeVar("W_co", bound=Writes, covariant=True)
Piece_contra = TypeVar("Piece_contra", bound=Writes, contravariant=True)


class MakePiece(Protocol[W_co]):
    """Makes what a piece of work gets, on a connection with an open transaction."""

    def __call__(self, connection: AsyncConnection, *, shared: bool) -> W_co: ...


class Sealing(Protocol[Piece_contra, S]):
    """What is done once for each transaction, whatever is in it."""

    async def share(self, connection: AsyncConnection) -> None:
        """Begins a transaction that several pieces are to share, as its first statements."""

    async def seal(self, connection: AsyncConnection, pieces: Sequence[Piece_contra]) -> S:
        """Ends a transaction, as its last statements."""

    def sealed(self, seal: S) -> None:
        """Told right after the commit, before anybody else is."""

    def in_doubt(self) -> None:
        """Told if a commit failed, which may have been carried out all the same."""


@dataclass(frozen=True, slots=True)
class _Job(Generic[W]):
    work: Callable[[W], Awaitable[Any]]
    committed: Callable[[Any], None]
    done: asyncio.Future[Any]
    since: float


class _CommitInDoubtError(Exception):
    """A commit failed, and may have been carried out all the same. Its cause says how."""

    def __init__(self, cause: Exception) -> None:
        super().__init__()
        self.cause = cause


class GroupCommit(Generic[W, S]):
    """Runs submitted work, one piece after the other, in as few transactions as the load allows.

    While one transaction commits, the next pieces queue up, and then share the next one. If a piece fails after it has
    changed something, or the database does, the whole transaction is rolled back and each of its pieces is run again in
    a transaction of its own: so nobody pays for another's failure with more than time. But if the commit itself fails,
    nobody knows whether it was carried out, and all are told so: run again, a piece would find what it has made.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        piece: MakePiece[W],
        sealing: Sealing[W, S],
        *,
        batch: int,
        figures: DatabaseFigures | None = None,
    ) -> None:
        self._engine = engine
        self._figures = figures or DatabaseFigures()
        self._piece = piece
        self._sealing = sealing
        self._batch = batch
        self._waiting: list[_Job[W]] = []
        self._loop: asyncio.Task[None] | None = None

    async def submit(self, work: Callable[[W], Awaitable[T]], committed: Callable[[T], None]) -> tuple[T, S]:
        """Runs `work` and returns its result, and its transaction's seal, once it is committed.

        A caller that is cancelled while its work waits takes it back; once begun, it is carried through. If the
        transaction that it shared was rolled back, it waits again.

        Args:
            committed: told the result right after the commit, also if the caller has left by then.
        """
        done: asyncio.Future[tuple[T, S]] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Job(work, committed, done, time.perf_counter()))
        if self._loop is None:
            self._loop = asyncio.create_task(self._run(), name="group commit")
        return await done

    async def close(self) -> None:
        """Carries through what waits."""
        while self._loop is not None:
            await self._loop

    async def _run(self) -> None:
        try:
            while self._waiting:
                await self._gather()
                jobs = [job for job in self._waiting[: self._batch] if not job.done.cancelled()]
                del self._waiting[: self._batch]
                self._count(jobs)
                if not await self._together(jobs):
                    self._figures.run_again += len(jobs) > 1
                    for job in jobs:
                        # Of the shared transaction nothing is left, so whoever has left meanwhile took it back. With a
                        # database that does not answer it may take minutes until it is somebody's turn.
                        if not job.done.cancelled():
                            await self._alone(job)
        finally:
            self._loop = None

    def _count(self, jobs: Sequence[_Job[W]]) -> None:
        if jobs:
            self._figures.batches.observe(len(jobs))
        now = time.perf_counter()
        for job in jobs:
            self._figures.waits.observe(now - job.since)

    async def _gather(self) -> None:
        """Lets calls that are about to submit work do so.

        Beginning and committing cost as much as many pieces of work, and under load the next ones are close behind.
        What waits alone is not kept waiting.
        """
        before = 1
        for _ in range(_GATHERING_TURNS):
            if not before < len(self._waiting) < self._batch:
                return
            before = len(self._waiting)
            await asyncio.sleep(_GATHERING_SECONDS)

    async def _together(self, jobs: list[_Job[W]]) -> bool:
        """Whether all went into one transaction; if not, none did."""
        if len(jobs) < 2:
            return not jobs
        results: list[tuple[_Job[W], Any, HandclaspError | None]] = []
        pieces: list[W] = []
        try:
            async with self._transaction_of_all() as connection:
                await self._sealing.share(connection)
                for job in jobs:
                    piece = self._piece(connection, shared=True)
                    try:
                        results.append((job, await job.work(piece), None))
                        pieces.append(piece)
                    except HandclaspError as error:
                        if piece.wrote:
                            raise
                        results.append((job, None, error))
                seal = await self._sealing.seal(connection, pieces)
        except _CommitInDoubtError as error:
            for job in jobs:
                _settle(job.done, None, error.cause)
            return True
        except Exception:  # noqa: BLE001 - whatever it was shows again, to the one it belongs to, in `_alone`
            return False
        self._tell_of_seal(seal)
        for job, result, refusal in results:
            if refusal is None:
                _tell(job, result)
            _settle(job.done, (result, seal), refusal)
        return True

    async def _alone(self, job: _Job[W]) -> None:
        try:
            try:
                result, seal = await self._run_alone(job)
            except IntegrityError:
                # Another process put the same on file since it was looked for. Looked for again, it is found.
                result, seal = await self._run_alone(job)
        except _CommitInDoubtError as error:
            _settle(job.done, None, error.cause)
        except BaseException as error:  # raised where the work was submitted
            _settle(job.done, None, error)
            if not isinstance(error, Exception):
                raise
        else:
            self._tell_of_seal(seal)
            _tell(job, result)
            _settle(job.done, (result, seal), None)

    async def _run_alone(self, job: _Job[W]) -> tuple[Any, S]:
        async with self._transaction_of_all() as connection:
            piece = self._piece(connection, shared=False)
            result = await job.work(piece)
            return result, await self._sealing.seal(connection, [piece])

    @asynccontextmanager
    async def _transaction_of_all(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that is committed at the end."""
        with self._figures.timed("write"):
            async with self._begun() as connection:
                yield connection

    @asynccontextmanager
    async def _begun(self) -> AsyncIterator[AsyncConnection]:
        async with self._engine.connect() as connection:
            transaction = await connection.begin()
            try:
                yield connection
            except BaseException:
                await transaction.rollback()
                raise
            try:
                await transaction.commit()
            except Exception as error:
                self._sealing.in_doubt()
                # What state it is in is not known either.
                await connection.invalidate()
                raise _CommitInDoubtError(error) from error
            except BaseException:
                self._sealing.in_doubt()
                raise

    def _tell_of_seal(self, seal: S) -> None:
        try:
            self._sealing.sealed(seal)
        except Exception:  # noqa: BLE001 - the commit stands; what comes of it is not to be mistaken for its failure
            _LOG.exception("not_told_of_commit")
            self._sealing.in_doubt()


def _tell(job: _Job[Any], result: Any) -> None:
    try:
        job.committed(result)
    except Exception:  # noqa: BLE001 - the commit stands, and whoever waits for it or for others' is not to suffer
        _LOG.exception("not_told_of_commit")


def _settle(done: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if done.cancelled():
        return
    if error is None:
        done.set_result(result)
    else:
        done.set_exception(error)
