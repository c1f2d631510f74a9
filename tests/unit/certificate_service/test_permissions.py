"""Grants: what they reach, what they include, what they let somebody see."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handclasp.certificate_service.domain.access_profiles import built_in_profiles
from handclasp.certificate_service.domain.permissions import (
    ADMINISTRATIVE,
    Grant,
    Permission,
    check_pattern,
    check_resource,
    lacking,
)
from handclasp.certificate_service.domain.visibility import Visible, visible_by
from handclasp.errors import InvalidArgument
from tests.unit.x509.refusals import NOW

EXECUTE = Permission.EXECUTE_INTEGRATIONS

# Few letters, so that patterns and resources meet.
NAMES = st.text("aA/", max_size=4)
PATTERNS = st.builds(str.__add__, st.sampled_from(["", "u", "users", "users/", "users/a", "other/"]) | NAMES, NAMES)
GRANTS = st.builds(
    lambda permission, text, star: Grant(permission, text + "*" if star or not text else text),
    st.sampled_from([EXECUTE, Permission.USER_MANAGEMENT]),
    PATTERNS,
    st.booleans(),
)
RESOURCES = st.builds(lambda collection, name: f"{collection}/{name or 'a'}", st.sampled_from(["users", "u"]), NAMES)


@pytest.mark.parametrize(
    ("pattern", "resource", "reaches"),
    [
        ("*", "integrations/echo", True),
        ("integrations/echo", "integrations/echo", True),
        ("integrations/echo", "integrations/echo2", False),
        ("integrations/echo", "integrations/ech", False),
        ("integrations/orders.*", "integrations/orders.summarize", True),
        ("integrations/orders.*", "integrations/orders.", True),
        ("integrations/orders.*", "integrations/orders", False),
        ("integrations/orders.*", "integrations/ordersXsummarize", False),
        ("integrations/[a-z]*", "integrations/echo", False),
        ("integrations/ech?", "integrations/echo", False),
        ("integrations/%*", "integrations/echo", False),
        ("integrations/_*", "integrations/echo", False),
        ("Integrations/*", "integrations/echo", False),
        ("integrations/*", "users/echo", False),
    ],
)
def test_what_a_grant_reaches(pattern: str, resource: str, reaches: bool) -> None:
    assert Grant(EXECUTE, pattern).reaches(resource) is reaches


@pytest.mark.parametrize("pattern", ["a*b", "**", "*a", "a b", "ä", "a\n", "a\x00", "\x7f", "x" * 257, "x" * 256 + "*"])
def test_patterns_that_do_not_fit(pattern: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        check_pattern(pattern, "grants.3.resource_pattern")
    assert [violation.field for violation in caught.value.violations] == ["grants.3.resource_pattern"]


@pytest.mark.parametrize("pattern", ["*", "a", "a*", "!~", "x" * 256, "x" * 255 + "*"])
def test_patterns_that_fit(pattern: str) -> None:
    assert check_pattern(pattern, "pattern") == pattern


def test_the_empty_pattern_is_everything() -> None:
    assert check_pattern("", "pattern") == "*"


@pytest.mark.parametrize("resource", ["", "*", "a*", "a b", "ä", "a\n", "\x00", "x" * 257])
def test_resources_that_do_not_fit(resource: str) -> None:
    """Above all none with a `*`: asked about `integrations/*`, a grant for part of it must not say yes."""
    with pytest.raises(InvalidArgument):
        check_resource(resource, "resource")


@given(GRANTS, GRANTS, RESOURCES)
def test_what_is_included_reaches_no_further(holder: Grant, other: Grant, resource: str) -> None:
    if holder.includes(other) and other.reaches(resource):
        assert holder.permission is other.permission
        assert holder.reaches(resource)


@given(GRANTS, GRANTS)
def test_what_is_not_included_reaches_something_more(holder: Grant, other: Grant) -> None:
    if holder.permission is other.permission and not holder.includes(other):
        # `~` occurs in no pattern here, so no exact one of the holder's is this.
        beyond = other.pattern.removesuffix("*") + "~" if other.pattern.endswith("*") else other.pattern
        assert other.reaches(beyond)
        assert not holder.reaches(beyond)


@given(GRANTS)
def test_a_grant_includes_itself(grant: Grant) -> None:
    assert grant.includes(grant)
    assert lacking([grant], [grant]) == []
    assert lacking([], [grant]) == [grant]


def test_two_narrow_grants_make_no_wide_one() -> None:
    wide = Grant(EXECUTE, "integrations/*")
    narrow = [Grant(EXECUTE, f"integrations/{letter}*") for letter in "ab"]
    assert lacking(narrow, [wide]) == [wide]
    assert lacking([wide], narrow) == []


@given(st.lists(GRANTS, max_size=5), st.sampled_from([EXECUTE, Permission.USER_MANAGEMENT]), NAMES)
def test_visible_is_what_a_grant_reaches(grants: list[Grant], permission: Permission, identifier: str) -> None:
    reached = any(grant.permission is permission and grant.reaches(f"users/{identifier}") for grant in grants)
    assert visible_by(grants, permission, "users").sees(identifier) is reached


def test_also_adds_to_what_is_visible() -> None:
    visible = Visible(prefixes=frozenset({"acme-"})).also("alice", "bob")
    assert [name for name in ("alice", "bob", "acme-x", "carol") if visible.sees(name)] == ["alice", "bob", "acme-x"]


def test_every_permission_is_in_a_built_in_profile_and_administrators_have_all() -> None:
    profiles = {profile.id: profile for profile in built_in_profiles(NOW)}
    assert {name: {grant.permission for grant in profile.grants} for name, profile in profiles.items()} == {
        "administrator": set(Permission),
        "regular-user": {Permission.MANAGE_PERSONAL_SETUP, Permission.EXECUTE_INTEGRATIONS},
        "relying-party": {Permission.AUTHORIZE_PEERS},
    }
    assert all(profile.built_in for profile in profiles.values())
    assert all(grant.pattern == "*" for profile in profiles.values() for grant in profile.grants)


def test_administrative_are_those_that_the_design_names() -> None:
    assert {permission.value for permission in ADMINISTRATIVE} == {
        "USER_MANAGEMENT",
        "ACCESS_CONTROL",
        "TRUST_MANAGEMENT",
        "AUTHORIZE_PEERS",
        "VIEW_AUDIT_LOG",
    }
