"""Resource names: `users/alice` and the like, accepted with or without the collection in front."""

from __future__ import annotations

USERS = "users"
ACCESS_PROFILES = "accessProfiles"
CERTIFICATES = "certificates"
TRUST_ANCHORS = "trustAnchors"
ENROLLMENT_TOKENS = "enrollmentTokens"
INTEGRATIONS = "integrations"
DECISIONS = "decisions"


def resource_name(collection: str, given: str) -> str:
    """`alice` and `users/alice` both as `users/alice`."""
    return given if given.startswith(f"{collection}/") else f"{collection}/{given}"


def resource_id(name: str) -> str:
    """`alice` of `users/alice`; what has no collection in front comes back as it is."""
    return name.partition("/")[2] or name
