"""Access profiles, and the three that are built in."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from handclasp.certificate_service.domain.permissions import Grant, Permission

MAXIMUM_DESCRIPTION = 1000
MAXIMUM_GRANTS = 100

ADMINISTRATOR = "administrator"
REGULAR_USER = "regular-user"
RELYING_PARTY = "relying-party"


@dataclass(frozen=True, slots=True)
class AccessProfile:
    """A named set of grants."""

    id: str
    description: str
    grants: tuple[Grant, ...]
    built_in: bool
    create_time: datetime
    update_time: datetime


def built_in_profiles(now: datetime) -> tuple[AccessProfile, ...]:
    """The profiles that every installation begins with."""

    def profile(profile_id: str, description: str, *permissions: Permission) -> AccessProfile:
        grants = tuple(Grant(permission) for permission in permissions)
        return AccessProfile(profile_id, description, grants, built_in=True, create_time=now, update_time=now)

    return (
        profile(ADMINISTRATOR, "Everything.", *Permission),
        profile(
            REGULAR_USER,
            "Manages one's own certificates, and runs every integration.",
            Permission.MANAGE_PERSONAL_SETUP,
            Permission.EXECUTE_INTEGRATIONS,
        ),
        profile(RELYING_PARTY, "A server that asks whether its peers may do something.", Permission.AUTHORIZE_PEERS),
    )
