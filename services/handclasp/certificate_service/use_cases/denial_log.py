"""Keeps denials so that they can be explained: in memory at once, in the database a little later, in batches.

Equal denials within a window share one record and one id, so a flood of them costs one row. A flood of different ones
is bounded, too: past a peer's share they are recorded by peer and reason, past the limit of all by reason only.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Annotated, TypeAlias

import structlog
from pydantic import Field
from sqlalchemy.exc import DataError, SQLAlchemyError

from handclasp.certificate_service.domain.decisions import DecisionReason, Verdict
from handclasp.certificate_service.domain.denials import Denial
from handclasp.certificate_service.domain.durations import CENTURY
from handclasp.certificate_service.domain.identifiers import decision_name, new_id
from handclasp.certificate_service.domain.permissions import Permission
from handclasp.certificate_service.storage.database import Database
from handclasp.certificate_service.storage.denials import find_denial, save_denials
from handclasp.certificate_service.use_cases.caller import Clock

_LOG = structlog.stdlib.get_logger(__name__)

_OVERFLOW_RULE = "one of many different denials at once, which are recorded together; the first one's rule: "


@dataclass(frozen=True, slots=True)
class DenialLimits:
    """How denials are kept.

    Attributes:
        keep: how many records the database keeps; the oldest go first.
        window: how long equal denials are counted in one record.
        open_records: how many different denials may be counted at once; further ones are recorded by reason only.
        open_records_per_peer: how many of one certificate or address; further ones are recorded by peer and reason.
        flush_interval: how long a denial waits at most before it is written. A crash loses those that wait.
    """

    keep: Annotated[int, Field(ge=1)] = 100_000
    window: Annotated[timedelta, Field(ge=timedelta(0), le=CENTURY)] = timedelta(seconds=60)
    open_records: Annotated[int, Field(ge=1)] = 1_000
    open_records_per_peer: Annotated[int, Field(ge=1)] = 100
    flush_interval: Annotated[timedelta, Field(ge=timedelta(milliseconds=10))] = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Subject:
    """Who was denied what; see `Denial` for what each means."""

    user_id: str = ""
    certificate_id: str = ""
    permission: Permission | None = None
    resource: str = ""
    relying_party: str = ""
    peer_address: str = ""
    fingerprint: str = ""


_Key: TypeAlias = tuple[DecisionReason, Subject]


class DenialLog:
    """Records denials; `run` writes them."""

    def __init__(self, database: Database, limits: DenialLimits, clock: Clock) -> None:
        self._database = database
        self._limits = limits
        self._clock = clock
        self._open: dict[_Key, Denial] = {}
        self._unwritten: set[_Key] = set()
        self._shares: Counter[str] = Counter()
        self._writing = asyncio.Lock()

    def record(self, verdict: Verdict, subject: Subject, decided: datetime | None = None) -> str:
        """Records a denial, of this moment unless it was decided before, and returns the id under which it can be
        explained."""
        now = self._clock() if decided is None else decided
        key = self._key(verdict.reason, subject)
        known = self._open.get(key)
        if known is None:
            if key[1] != subject:
                verdict = replace(verdict, rule=_OVERFLOW_RULE + verdict.rule)
            known = _new_denial(verdict, key[1], now)
            self._shares[_who(key[1])] += 1
        else:
            known = replace(known, count=known.count + 1, last_time=now)
        self._open[key] = known
        self._unwritten.add(key)
        return known.id

    def _key(self, reason: DecisionReason, subject: Subject) -> _Key:
        """Under what to record: what was asked in full; past the peer's share of records, by peer and reason; and past
        the limit of all, by reason only. So a peer that is denied a thousand things blinds nobody to another's."""
        room = len(self._open) < self._limits.open_records
        exact = (reason, subject)
        if exact in self._open or (room and self._shares[_who(subject)] < self._limits.open_records_per_peer):
            return exact
        by_peer = (reason, _peer_only(subject))
        return by_peer if room or by_peer in self._open else (reason, Subject())

    async def explain(self, decision_id: str) -> Denial | None:
        """The record with that id, if it is kept."""
        for denial in self._open.values():
            if denial.id == decision_id:
                return denial
        return await self._database.read(lambda snapshot: find_denial(snapshot, decision_id))

    async def run(self) -> None:
        """Writes what was recorded, until cancelled."""
        while True:
            await asyncio.sleep(self._limits.flush_interval.total_seconds())
            await self.try_to_flush()

    async def try_to_flush(self) -> None:
        """Writes now what was recorded, if that is possible; what is not written stays in memory, which is bounded."""
        try:
            await self.flush()
        except SQLAlchemyError as error:
            _LOG.warning("denials_not_written", waiting=len(self._unwritten), error=type(error).__name__)

    async def flush(self) -> None:
        """Writes now what was recorded, and closes the records whose window is over. What somebody else is writing is
        written, too, when this returns.

        Raises:
            SQLAlchemyError: they could not be written.
        """
        async with self._writing:
            await self._flush()

    async def _flush(self) -> None:
        keys, self._unwritten = self._unwritten, set()
        records = [self._open[key] for key in keys]
        if records:
            try:
                await self._write(records)
            except BaseException:
                self._unwritten |= keys
                raise
        before = self._clock() - self._limits.window
        for key in [key for key, denial in self._open.items() if denial.first_time < before]:
            if key not in self._unwritten:
                del self._open[key]
                self._shares[_who(key[1])] -= 1
        self._shares = +self._shares

    async def _write(self, records: Sequence[Denial]) -> None:
        try:
            await self._database.write(lambda transaction: save_denials(transaction, records, keep=self._limits.keep))
        except DataError:
            # One that the database does not take must not keep the others from being written.
            if len(records) == 1:
                _LOG.exception("denial_not_writable", decision=decision_name(records[0].id))
                return
            for record in records:
                await self._write([record])


def _who(subject: Subject) -> str:
    """The peer, as far as it cannot choose it: its certificate on file, or else its address."""
    return subject.certificate_id or subject.peer_address


def _peer_only(subject: Subject) -> Subject:
    if subject.certificate_id:
        return Subject(user_id=subject.user_id, certificate_id=subject.certificate_id)
    return Subject(peer_address=subject.peer_address)


def _new_denial(verdict: Verdict, subject: Subject, now: datetime) -> Denial:
    return Denial(
        id=new_id(now),
        reason=verdict.reason,
        rule=verdict.rule,
        user_id=subject.user_id,
        certificate_id=subject.certificate_id,
        permission=subject.permission,
        resource=subject.resource,
        relying_party=subject.relying_party,
        peer_address=subject.peer_address,
        fingerprint=subject.fingerprint,
        first_time=now,
        last_time=now,
    )
