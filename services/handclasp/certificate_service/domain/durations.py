"""Moments and durations, as people write them, and how long something new may last."""

from __future__ import annotations

from datetime import datetime, timedelta

from handclasp.errors import Reason, invalid_field

MINIMUM_LIFETIME = timedelta(minutes=1)
CENTURY = timedelta(days=36_525)
"""Nobody needs more, and what is so far from now still is a date."""

_UNITS = (("d", timedelta(days=1)), ("h", timedelta(hours=1)), ("m", timedelta(minutes=1)), ("s", timedelta(seconds=1)))


def short(duration: timedelta) -> str:
    """A whole number and d, h, m or s, as the command takes it: `90d`, `90m`. Parts of a second are left out."""
    unit, length = next((unit for unit in _UNITS if not duration % unit[1]), _UNITS[-1])
    return f"{duration // length}{unit}"


def utc(moment: datetime) -> str:
    """A moment in UTC, to the second."""
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def check_lifetime(wanted: timedelta, maximum: timedelta) -> timedelta:
    """What somebody asked for as `lifetime`, if it may be had.

    Raises:
        InvalidArgument: LIFETIME_NOT_ACCEPTED.
    """
    if not MINIMUM_LIFETIME <= wanted <= maximum:
        raise invalid_field(
            "lifetime",
            f"must be between {short(MINIMUM_LIFETIME)} and {short(maximum)}",
            Reason.LIFETIME_NOT_ACCEPTED,
        )
    return wanted
