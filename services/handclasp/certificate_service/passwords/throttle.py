"""Slows down whoever guesses passwords: one user's, from one address. Nobody else notices."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated

from pydantic import Field

from handclasp.certificate_service.domain.durations import CENTURY

# Of an IPv6 address: what is a subnet's (RFC 4291, section 2.5.4). Whoever has one has all the addresses in it.
_SUBNET_BITS = 64


@dataclass(frozen=True, slots=True)
class ThrottleLimits:
    """How guessing is slowed down.

    Attributes:
        free_attempts: wrong passwords before the first wait.
        first_wait: the wait after those; it doubles with each further wrong one.
        longest_wait: the wait does not grow beyond it.
        forget_after: without a wrong one for that long, all is forgotten.
        remembered: how many pairs of user and address are kept at most; the ones unused for longest go first.
    """

    free_attempts: Annotated[int, Field(ge=1)] = 5
    first_wait: Annotated[timedelta, Field(ge=timedelta(milliseconds=1), le=CENTURY)] = timedelta(seconds=1)
    longest_wait: Annotated[timedelta, Field(ge=timedelta(milliseconds=1), le=CENTURY)] = timedelta(minutes=5)
    forget_after: Annotated[timedelta, Field(ge=timedelta(0))] = timedelta(minutes=15)
    remembered: Annotated[int, Field(ge=1)] = 20_000


@dataclass(slots=True)
class _Record:
    failures: int = 0
    last_failure: datetime | None = None
    pending: int = 0


class PasswordThrottle:
    """Counts wrong passwords by user and address. Attempts that are still being checked count as wrong, so that sending
    many at once gains nothing."""

    def __init__(self, limits: ThrottleLimits) -> None:
        self._limits = limits
        self._records: OrderedDict[tuple[str, str], _Record] = OrderedDict()

    def begin(self, user_id: str, address: str, now: datetime) -> datetime | None:
        """Begins an attempt, to be ended by `end`; or says from when on the next one will be looked at."""
        record = self._record(user_id, address, now)
        wait = self._wait(record.failures + record.pending)
        if wait is not None:
            since = record.last_failure if record.last_failure is not None and not record.pending else now
            if now < since + wait:
                return since + wait
        record.pending += 1
        return None

    def end(self, user_id: str, address: str, now: datetime, *, right: bool | None) -> None:
        """Ends an attempt that `begin` let through. A right one clears the record; with None, nobody looked at it."""
        record = self._record(user_id, address, now)
        record.pending = max(0, record.pending - 1)
        if right:
            record.failures, record.last_failure = 0, None
        elif right is not None:
            record.failures, record.last_failure = record.failures + 1, now

    def _wait(self, attempts: int) -> timedelta | None:
        beyond = attempts - self._limits.free_attempts
        if beyond < 0:
            return None
        doubled = 1 << min(beyond, 32)
        # Compared so, since the product can be too large for a duration.
        if self._limits.first_wait >= self._limits.longest_wait / doubled:
            return self._limits.longest_wait
        return self._limits.first_wait * doubled

    def _record(self, user_id: str, address: str, now: datetime) -> _Record:
        key = (user_id, address)
        record = self._records.pop(key, None)
        if record is None or (
            record.last_failure is not None
            and not record.pending
            and now - record.last_failure > self._limits.forget_after
        ):
            record = _Record()
        self._records[key] = record
        while len(self._records) > self._limits.remembered:
            self._records.popitem(last=False)
        return record


def source_of(address: str) -> str:
    """What counts as one address: an IPv4 address, or an IPv6 subnet. Other texts stand for themselves."""
    try:
        parsed = ipaddress.IPv6Address(address)
    except ValueError:
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(parsed) >> _SUBNET_BITS << _SUBNET_BITS, _SUBNET_BITS)))
