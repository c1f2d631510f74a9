"""How durations are told."""

from __future__ import annotations

from datetime import timedelta

import pytest

from handclasp.certificate_service.domain.durations import short


@pytest.mark.parametrize(
    ("duration", "said"),
    [
        (timedelta(days=90), "90d"),
        (timedelta(hours=36), "36h"),
        (timedelta(minutes=90), "90m"),
        (timedelta(seconds=61), "61s"),
        (timedelta(seconds=1.5), "1s"),
    ],
)
def test_a_duration_is_told_as_the_command_takes_it(duration: timedelta, said: str) -> None:
    assert short(duration) == said
