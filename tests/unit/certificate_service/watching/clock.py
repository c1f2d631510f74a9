"""A clock of leases that tests set."""

from __future__ import annotations


class SettableLeaseClock:
    """Seconds since some moment."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now
