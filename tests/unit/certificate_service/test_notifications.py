"""What processes say to each other, and what somebody else says who may connect to the database."""

from __future__ import annotations

import pytest

from handclasp.certificate_service.storage.notifications import BARRIER, SETTLED, Seals, number


def test_what_is_sealed_is_heard_without_its_seal() -> None:
    heard: list[str] = []
    seals = Seals(b"a secret")
    seals.opening(BARRIER, heard.append)(Seals(b"a secret").seal(BARRIER, "12"))
    assert heard == ["12"]


@pytest.mark.parametrize(
    "said",
    ["", ":", "12", "12:", "12:é", Seals(b"another").seal(BARRIER, "12"), Seals(b"a secret").seal(SETTLED, "12")],
)
def test_nothing_else_is_heard(said: str) -> None:
    heard: list[str] = []
    Seals(b"a secret").opening(BARRIER, heard.append)(said)
    assert heard == []


@pytest.mark.parametrize(("text", "found"), [("0", 0), ("9" * 19, 10**19 - 1), ("9" * 20, None), ("-1", None)])
@pytest.mark.parametrize("no_number", ["", "x", "1.0", " 1", "٣", "²", "9" * 5_000])
def test_numbers_are_short_and_ascii(text: str, found: int | None, no_number: str) -> None:
    assert number(text) == found
    assert number(no_number) is None
