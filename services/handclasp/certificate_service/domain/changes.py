"""Changes that decisions can depend on, and their order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Effect(StrEnum):
    """What a change does to decisions that rest on what it names; authorization_service.proto says it in full."""

    GIVEN = "GIVEN"
    ALTERED = "ALTERED"
    WITHDRAWN = "WITHDRAWN"
    CREDENTIALS = "CREDENTIALS"


@dataclass(frozen=True, slots=True)
class Change:
    """What happened to a certificate, a user, an access profile or a trust anchor.

    Attributes:
        name: its resource name.
    """

    name: str
    effect: Effect


@dataclass(frozen=True, slots=True)
class Position:
    """A point in the history of changes.

    Attributes:
        revision: moved up by one by each transaction that has changes.
        mark: made at random for each revision, 63 bits; tells apart histories that part after a backup was restored.
    """

    revision: int
    mark: int


BEGINNING = Position(0, 0)
"""Before any change."""


@dataclass(frozen=True, slots=True)
class Revision:
    """The changes of one transaction.

    Attributes:
        previous_mark: of the revision before; None if that is not known.
    """

    position: Position
    changes: tuple[Change, ...]
    previous_mark: int | None = field(default=None, compare=False)


def joined(revisions: Iterable[Revision]) -> Mapping[str, frozenset[Effect]]:
    """All that happened, by name. No effect swallows an earlier one: a hold ends calls even if it is over by now."""
    effects: dict[str, frozenset[Effect]] = {}
    for revision in revisions:
        for change in revision.changes:
            effects[change.name] = effects.get(change.name, frozenset()) | {change.effect}
    return effects
