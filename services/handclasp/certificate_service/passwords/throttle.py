"""Slows down whoever guesses: one user's password, from one address. Nobody else notices."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated

from pydantic import Field

from handclasp.certificate_service.domain.durations import CENTURY

# Of an IPv6 address: what is a subnet's (RFC 4291, section 2.5.4). Whoever has one has all the addresses in it.
_SUBNET_BITS = 64

_Wait = Annotated[timedelta, Field(ge=timedelta(milliseconds=1), le=CENTURY)]
_Number = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, slots=True)
class ThrottleLimits:
    """How guessing is slowed down.

    Attributes:
        free_attempts: wrong passwords before the first wait.
        first_wait: the wait after those; it doubles with each further wrong one.
        longest_wait: the wait does not grow beyond it.
        forget_after: without a wrong one for that long, all is forgotten.
        remembered: how many pairs of user and address are kept at most; the ones unused for longest go first.
        guesses_per_user: wrong passwords for one user from all addresses together; further ones wait. An address that a
            right one came from does not count, and does not wait.
        guess_interval_per_user: how often one more is looked at then.
        guesses_through_relying_party: the same of those for one user that one relying party passed on, whatever
            addresses it says they came from. They are counted apart from all others.
        guess_interval_through_relying_party: how often one more is looked at then.
        guesses_per_relying_party: the same of those that one relying party passed on for all users together.
        guess_interval_per_relying_party: how often one more is looked at then.
    """

    free_attempts: _Number = 5
    first_wait: _Wait = timedelta(seconds=1)
    longest_wait: _Wait = timedelta(minutes=5)
    forget_after: Annotated[timedelta, Field(ge=timedelta(0))] = timedelta(minutes=15)
    remembered: _Number = 20_000
    guesses_per_user: _Number = 100
    guess_interval_per_user: _Wait = timedelta(seconds=10)
    guesses_through_relying_party: _Number = 20
    guess_interval_through_relying_party: _Wait = timedelta(minutes=1)
    guesses_per_relying_party: _Number = 500
    guess_interval_per_relying_party: _Wait = timedelta(seconds=2)


@dataclass(slots=True)
class _Record:
    failures: int = 0
    last_failure: float | None = None
    pending: int = 0


class PasswordThrottle:
    """Counts wrong passwords by who guesses whose. Attempts that are still being checked count as wrong, so that
    sending many at once gains nothing.

    Moments are seconds on a clock that nobody sets.
    """

    def __init__(self, limits: ThrottleLimits) -> None:
        self._limits = limits
        self._first_wait = limits.first_wait.total_seconds()
        self._longest_wait = limits.longest_wait.total_seconds()
        self._forget_after = limits.forget_after.total_seconds()
        self._records: OrderedDict[tuple[Hashable, str], _Record] = OrderedDict()

    def not_before(self, user: Hashable, address: str, now: float) -> float | None:
        """From when on the next attempt will be looked at; None if it is now."""
        record = self._known(user, address, now)
        if record is None:
            return None
        self._records.move_to_end((user, address))
        wait = self._wait(record.failures + record.pending)
        if wait is None:
            return None
        since = record.last_failure if record.last_failure is not None and not record.pending else now
        return since + wait if now < since + wait else None

    def begin(self, user: Hashable, address: str, now: float) -> float | None:
        """Begins an attempt, to be ended by `end`; or says from when on the next one will be looked at."""
        not_before = self.not_before(user, address, now)
        if not_before is None:
            self._record(user, address, now).pending += 1
        return not_before

    def end(self, user: Hashable, address: str, now: float, *, right: bool | None) -> None:
        """Ends an attempt that `begin` let through. A right one clears the record; with None, nobody looked at it."""
        record = self._record(user, address, now)
        record.pending = max(0, record.pending - 1)
        if right:
            record.failures, record.last_failure = 0, None
        elif right is not None:
            record.failures, record.last_failure = record.failures + 1, now

    def _wait(self, attempts: int) -> float | None:
        beyond = attempts - self._limits.free_attempts
        if beyond < 0:
            return None
        return min(self._first_wait * float(1 << min(beyond, 64)), self._longest_wait)

    def _known(self, user: Hashable, address: str, now: float) -> _Record | None:
        record = self._records.get((user, address))
        if record is None or record.last_failure is None or record.pending:
            return record
        return None if now - record.last_failure > self._forget_after else record

    def _record(self, user: Hashable, address: str, now: float) -> _Record:
        record = self._known(user, address, now) or _Record()
        self._records[(user, address)] = record
        self._records.move_to_end((user, address))
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
