"""Keeps refusals that are no decisions, so that they can be listed: as `denial_log.py` keeps denials, in memory at
once and in the database a little later.

Equal ones within a window share one record. Each relying party has a share of its own, in memory and in the database,
and so has this service: nobody pushes out, or blinds anybody to, what others report.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Annotated

import structlog
from pydantic import Field
from sqlalchemy.exc import SQLAlchemyError

from handclasp.certificate_service.domain.durations import CENTURY
from handclasp.certificate_service.domain.identifiers import new_id
from handclasp.certificate_service.domain.refusals import Refusal, Refused
from handclasp.certificate_service.storage.database import Database
from handclasp.certificate_service.storage.refusals import save_refusals
from handclasp.certificate_service.use_cases.caller import Clock

_LOG = structlog.stdlib.get_logger(__name__)

_ANY_REASON = "VARIOUS"


@dataclass(frozen=True, slots=True)
class RefusalRecordLimits:
    """How refusals that are no decisions are kept. Numbers are for this service, and for each relying party.

    Attributes:
        keep: how many records the database keeps; the oldest go first.
        window: how long equal ones are counted in one record.
        different: how many different ones may be counted at once; further ones are recorded by reason only.
        different_per_peer: how many of one address.
        flush_interval: how long one waits at most before it is written. A crash loses those that wait.
    """

    keep: Annotated[int, Field(ge=1)] = 10_000
    window: Annotated[timedelta, Field(ge=timedelta(0), le=CENTURY)] = timedelta(seconds=60)
    different: Annotated[int, Field(ge=1)] = 200
    different_per_peer: Annotated[int, Field(ge=1)] = 20
    flush_interval: Annotated[timedelta, Field(ge=timedelta(milliseconds=10))] = timedelta(seconds=1)


class RefusalRecords:
    """Records refusals; `run` writes them."""

    def __init__(self, database: Database, limits: RefusalRecordLimits, clock: Clock) -> None:
        self._database = database
        self._limits = limits
        self._clock = clock
        self._open: dict[Refused, Refusal] = {}
        self._unwritten: set[Refused] = set()
        self._shares: Counter[tuple[str, ...]] = Counter()
        self._writing = asyncio.Lock()

    def record(self, refused: Refused, count: int = 1) -> None:
        """Records that it happened so many times just now."""
        now = self._clock()
        key = self._as_told_apart(refused)
        known = self._open.get(key)
        if known is None:
            known = Refusal(new_id(now), key, now, now, 0)
            self._shares.update(_shares_of(key))
        self._open[key] = replace(known, count=known.count + count, last_time=now)
        self._unwritten.add(key)

    async def run(self) -> None:
        """Writes what was recorded, until cancelled."""
        while True:
            await asyncio.sleep(self._limits.flush_interval.total_seconds())
            await self.try_to_flush()

    async def try_to_flush(self) -> None:
        """Writes now what was recorded, if that is possible; what is not written stays in memory, which is bounded."""
        async with self._writing:
            await self._try_to_flush()

    async def _try_to_flush(self) -> None:
        keys, self._unwritten = self._unwritten, set()
        records = [self._open[key] for key in keys]
        if records:
            try:
                await self._database.write(
                    lambda transaction: save_refusals(transaction, records, keep=self._limits.keep)
                )
            except SQLAlchemyError as error:
                self._unwritten |= keys
                _LOG.warning("refusals_not_written", waiting=len(self._unwritten), error=type(error).__name__)
            except BaseException:
                self._unwritten |= keys
                raise
        self._close_records()

    def _close_records(self) -> None:
        before = self._clock() - self._limits.window
        for key in [key for key, record in self._open.items() if record.first_time < before]:
            if key not in self._unwritten:
                del self._open[key]
                self._shares.subtract(_shares_of(key))
        self._shares = +self._shares

    def _as_told_apart(self, refused: Refused) -> Refused:
        """What to record it as: in full; past the share of its reporter, or of its peer, by reason only; and if even
        those are too many, which a relying party can choose, without a reason."""
        reporter, *peer = _shares_of(refused)
        room = self._shares[reporter] < self._limits.different
        if refused in self._open or (room and all(self._shares[one] < self._limits.different_per_peer for one in peer)):
            return refused
        coarse = Refused(refused.kind, refused.reason, relying_party=refused.relying_party)
        if coarse in self._open or self._shares[reporter] < 2 * self._limits.different:
            return coarse
        return replace(coarse, reason=_ANY_REASON)


def _shares_of(refused: Refused) -> list[tuple[str, ...]]:
    """What a record takes a share of."""
    reporter = (refused.relying_party,)
    return [reporter, (*reporter, refused.peer_address)] if refused.peer_address else [reporter]
