"""Permissions, and the grants that give them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from handclasp.errors import invalid_field

EVERYTHING = "*"

_RESOURCE = re.compile(r"[!-)+-~]{1,256}", re.ASCII)
_PATTERN = re.compile(r"[!-)+-~]{1,256}|[!-)+-~]{0,255}\*", re.ASCII)


class Permission(StrEnum):
    """What somebody may be allowed to do; permission.proto says what each is for."""

    USER_MANAGEMENT = "USER_MANAGEMENT"
    MANAGE_PERSONAL_SETUP = "MANAGE_PERSONAL_SETUP"
    ACCESS_CONTROL = "ACCESS_CONTROL"
    TRUST_MANAGEMENT = "TRUST_MANAGEMENT"
    EXECUTE_INTEGRATIONS = "EXECUTE_INTEGRATIONS"
    VIEW_EXECUTIONS = "VIEW_EXECUTIONS"
    AUTHORIZE_PEERS = "AUTHORIZE_PEERS"
    VIEW_AUDIT_LOG = "VIEW_AUDIT_LOG"


ADMINISTRATIVE = frozenset(
    {
        Permission.USER_MANAGEMENT,
        Permission.ACCESS_CONTROL,
        Permission.TRUST_MANAGEMENT,
        Permission.AUTHORIZE_PEERS,
        Permission.VIEW_AUDIT_LOG,
    }
)


@dataclass(frozen=True, slots=True, order=True)
class Grant:
    """A permission, and the resources it reaches: one name, or all that begin with what stands before a final `*`."""

    permission: Permission
    pattern: str = EVERYTHING

    def reaches(self, resource: str) -> bool:
        return _matches(self.pattern, resource)

    def includes(self, other: Grant) -> bool:
        """Whether whoever has this grant has the other one, too."""
        if self.permission is not other.permission:
            return False
        return self.pattern == other.pattern or (
            self.pattern.endswith("*") and other.pattern.startswith(self.pattern[:-1])
        )

    def __str__(self) -> str:
        return f"{self.permission} on {self.pattern}"


@dataclass(frozen=True, slots=True, order=True)
class ProfileGrant:
    """A grant, and the access profile that it comes from."""

    profile_id: str
    grant: Grant


def check_pattern(pattern: str, field: str) -> str:
    """A resource pattern as callers write it; empty means everything.

    Raises:
        InvalidArgument: it has spaces, characters beyond ASCII, more than 256 of them, or a `*` before its end.
    """
    if not pattern:
        return EVERYTHING
    if _PATTERN.fullmatch(pattern) is None:
        raise invalid_field(
            field, "must be at most 256 printable ASCII characters without spaces, with '*' only as the last one"
        )
    return pattern


def check_resource(resource: str, field: str) -> str:
    """A resource that is asked about.

    Raises:
        InvalidArgument: it is empty, too long, or holds spaces, a `*`, or characters beyond ASCII.
    """
    if _RESOURCE.fullmatch(resource) is None:
        raise invalid_field(field, "must be 1 to 256 printable ASCII characters, without spaces and without '*'")
    return resource


def lacking(holder: Iterable[Grant], wanted: Iterable[Grant]) -> list[Grant]:
    """Those wanted grants that no single grant of the holder includes, sorted."""
    held = list(holder)
    return sorted({grant for grant in wanted if not any(own.includes(grant) for own in held)})


def _matches(pattern: str, resource: str) -> bool:
    return resource.startswith(pattern[:-1]) if pattern.endswith("*") else resource == pattern
