"""Ids and resource names."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handclasp.certificate_service.domain import identifiers
from handclasp.certificate_service.domain.identifiers import (
    check_chosen_id,
    new_id,
    not_found,
    parse_access_profile_name,
    parse_certificate_name,
    parse_decision_name,
    parse_trust_anchor_name,
    parse_user_name,
)
from handclasp.errors import InvalidArgument, NotFound, Reason
from tests.unit.x509.refusals import NOW

MADE = {
    "certificates": (parse_certificate_name, Reason.CERTIFICATE_NOT_FOUND),
    "trustAnchors": (parse_trust_anchor_name, Reason.TRUST_ANCHOR_NOT_FOUND),
    "decisions": (parse_decision_name, Reason.DECISION_NOT_FOUND),
}
CHOSEN = {"users": parse_user_name, "accessProfiles": parse_access_profile_name}


def test_new_ids_differ_and_are_chosen_by_no_one() -> None:
    made = {new_id(NOW) for _ in range(2000)}
    assert len(made) == 2000
    assert all(re.fullmatch(r"[0-9a-v]{26}", identifier) for identifier in made)


@given(
    st.datetimes(datetime(2000, 1, 1), datetime(3000, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    st.timedeltas(timedelta(milliseconds=1), timedelta(days=3650)),
)
def test_ids_made_later_sort_later(moment: datetime, by: timedelta) -> None:
    assert new_id(moment) < new_id(moment + by)


@given(st.from_regex(r"[a-z0-9][a-z0-9._-]{0,62}", fullmatch=True))
def test_chosen_ids_and_their_names(identifier: str) -> None:
    assert check_chosen_id(identifier, "user_id") == identifier
    assert parse_user_name(f"users/{identifier}") == identifier
    assert parse_access_profile_name(f"accessProfiles/{identifier}") == identifier


@given(st.text(max_size=70))
def test_what_is_no_id_is_refused_and_named_by_its_field(text: str) -> None:
    if re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,62}", text, re.ASCII):
        return
    with pytest.raises(InvalidArgument) as caught:
        check_chosen_id(text, "user_id")
    assert [violation.field for violation in caught.value.violations] == ["user_id"]
    for collection, parse in CHOSEN.items():
        with pytest.raises(InvalidArgument):
            parse(f"{collection}/{text}")


@pytest.mark.parametrize("identifier", ["a\n", "\na", "a/b", "a ", "é", "ａ", "a" * 64, "..", "", "a*", "a%2fb"])
def test_look_alikes_are_refused(identifier: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_user_name(f"users/{identifier}")


@pytest.mark.parametrize("collection", MADE)
def test_ids_that_the_service_makes(collection: str) -> None:
    parse, reason = MADE[collection]
    made = new_id(NOW)
    assert parse(f"{collection}/{made}") == made
    for malformed in ("", collection, f"{collection}/", made, f"users/{made}", f"{collection}/{'x' * 300}"):
        with pytest.raises(InvalidArgument):
            parse(malformed)
    # Of a form that no id has: there can be none, which is all that is said.
    for other in ("x", made + "0", made.upper(), made[:-1] + "w", f"{made}/x", "\x00", "*"):
        with pytest.raises(NotFound) as caught:
            parse(f"{collection}/{other}")
        assert caught.value.reason == reason


def test_the_service_itself_has_no_name() -> None:
    assert identifiers.user_name("") == ""
    assert identifiers.certificate_name("") == ""


def test_missing_and_hidden_are_one_refusal() -> None:
    error = not_found(Reason.USER_NOT_FOUND, "users/alice")
    assert "users/alice" in error.message
    assert "may not see" in error.message
