"""Which resources of a collection somebody may see, derived from grants so that a database can filter by it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from handclasp.certificate_service.domain.permissions import Grant, Permission


@dataclass(frozen=True, slots=True)
class Visible:
    """Ids that may be seen: those named, and those that begin with one of the prefixes (the empty one: all)."""

    ids: frozenset[str] = frozenset()
    prefixes: frozenset[str] = frozenset()

    def sees(self, identifier: str) -> bool:
        return identifier in self.ids or any(identifier.startswith(prefix) for prefix in self.prefixes)

    def also(self, *identifiers: str) -> Visible:
        return Visible(self.ids | set(identifiers), self.prefixes)


def visible_by(grants: Iterable[Grant], permission: Permission, collection: str) -> Visible:
    """What grants of one permission reach within `{collection}/`."""
    base = f"{collection}/"
    ids, prefixes = set(), set()
    for grant in grants:
        if grant.permission is not permission:
            continue
        pattern = grant.pattern
        if not pattern.endswith("*"):
            if pattern.startswith(base):
                ids.add(pattern.removeprefix(base))
        elif base.startswith(pattern[:-1]):
            prefixes.add("")
        elif pattern.startswith(base):
            prefixes.add(pattern[len(base) : -1])
    return Visible(frozenset(ids), frozenset(prefixes))
