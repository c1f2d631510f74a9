"""Durations, as people write them."""

from __future__ import annotations

from datetime import timedelta

_UNITS = (("d", timedelta(days=1)), ("h", timedelta(hours=1)), ("m", timedelta(minutes=1)), ("s", timedelta(seconds=1)))


def short(duration: timedelta) -> str:
    """A whole number and d, h, m or s, as the command takes it: `90d`, `90m`. Parts of a second are left out."""
    unit, length = next((unit for unit in _UNITS if not duration % unit[1]), _UNITS[-1])
    return f"{duration // length}{unit}"
