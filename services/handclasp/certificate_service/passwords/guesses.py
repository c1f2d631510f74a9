"""Bounds how many passwords anybody tries out, whatever addresses they come from, or are said to come from.

By address alone, whoever has many addresses may guess without end; and a relying party has as many as it likes, since
it names the addresses of its peers itself. So there are budgets over all addresses, too. Whoever uses one up must not
lock the user out: they do not count for addresses that a right password of that user came from before, and what comes
through a relying party is counted apart, for each relying party, and not with what comes to this service's own doors.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeAlias

from handclasp.certificate_service.passwords.throttle import PasswordThrottle, ThrottleLimits


@dataclass(frozen=True, slots=True)
class Source:
    """Where a password comes from.

    Attributes:
        address: from `source_of`.
        relying_party: the id of the user whose relying party passed it on, and said the address; empty if it came to
            this service itself.
    """

    address: str
    relying_party: str = ""


@dataclass(frozen=True, slots=True)
class Refused:
    """The next attempt is looked at from then on, in seconds on the clock that the attempt was begun by."""

    not_before: float


_Key: TypeAlias = tuple[str, ...]


class Guesses:
    """Says whether a password may be looked at. Attempts that are still being checked count as wrong.

    Moments are seconds on a clock that nobody sets.
    """

    def __init__(self, limits: ThrottleLimits) -> None:
        kept = limits.remembered
        self._throttle = PasswordThrottle(limits)
        self._by_user = _Budgets(limits.guesses_per_user, limits.guess_interval_per_user, kept)
        self._by_user_and_party = _Budgets(
            limits.guesses_through_relying_party, limits.guess_interval_through_relying_party, kept
        )
        self._by_party = _Budgets(limits.guesses_per_relying_party, limits.guess_interval_per_relying_party, kept)
        # Where a right password of a user came from; a set that knows which was used last.
        self._known: OrderedDict[tuple[str, Source], None] = OrderedDict()
        self._known_limit = kept

    def begin(self, user_id: str, source: Source, now: float) -> Guess | Refused:
        """Begins an attempt, to be ended."""
        account = (user_id, source.relying_party)
        not_before = self._throttle.not_before(account, source.address, now)
        if not_before is not None:
            return Refused(not_before)
        budgets = [] if (user_id, source) in self._known else self._budgets(user_id, source)
        waits = [wait for budget, key in budgets if (wait := budget.not_before(key, now)) is not None]
        if waits:
            # Nothing is remembered of it: whoever invents addresses pushes nobody's record out.
            return Refused(max(waits))
        for budget, key in budgets:
            budget.take(key, now)
        self._throttle.begin(account, source.address, now)
        return Guess(self, user_id, source, budgets)

    def _budgets(self, user_id: str, source: Source) -> Sequence[tuple[_Budgets, _Key]]:
        party = source.relying_party
        if not party:
            return [(self._by_user, (user_id,))]
        return [(self._by_user_and_party, (user_id, party)), (self._by_party, (party,))]

    def _end(self, guess: Guess, now: float, right: bool | None) -> None:
        user_id, source = guess.user_id, guess.source
        self._throttle.end((user_id, source.relying_party), source.address, now, right=right)
        if right is not False:
            for budget, key in guess.budgets:
                budget.give_back(key, now)
        if right:
            self._known[(user_id, source)] = None
            self._known.move_to_end((user_id, source))
            while len(self._known) > self._known_limit:
                self._known.popitem(last=False)


@dataclass(frozen=True, slots=True, eq=False)
class Guess:
    """An attempt that is let through. Made by `Guesses.begin`."""

    _guesses: Guesses
    user_id: str
    source: Source
    budgets: Sequence[tuple[_Budgets, _Key]]

    def end(self, now: float, *, right: bool | None) -> None:
        """Ends it. With None, nobody looked at it."""
        self._guesses._end(self, now, right)


class _Budgets:
    """One budget for each key: so many at once, and then one each interval.

    Args:
        remembered: how many keys are kept at most; the ones unused for longest go first.
    """

    def __init__(self, size: int, interval: timedelta, remembered: int) -> None:
        self._size = size
        self._interval = interval.total_seconds()
        self._remembered = remembered
        # What was left, and when.
        self._left: OrderedDict[_Key, tuple[float, float]] = OrderedDict()

    def not_before(self, key: _Key, now: float) -> float | None:
        """When there will be one; None if there is."""
        left = self._left_at(key, now)
        return None if left >= 1 else now + (1 - left) * self._interval

    def take(self, key: _Key, now: float) -> None:
        self._save(key, now, self._left_at(key, now) - 1)

    def give_back(self, key: _Key, now: float) -> None:
        if key in self._left:
            self._save(key, now, min(self._size, self._left_at(key, now) + 1))

    def _left_at(self, key: _Key, now: float) -> float:
        left, since = self._left.get(key, (float(self._size), now))
        return min(float(self._size), left + max(0.0, now - since) / self._interval)

    def _save(self, key: _Key, now: float, left: float) -> None:
        self._left[key] = (left, now)
        self._left.move_to_end(key)
        while len(self._left) > self._remembered:
            self._left.popitem(last=False)
