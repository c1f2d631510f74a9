"""The clock of leases: seconds that go on while the machine is suspended, and heed nobody who sets the time of day."""

from __future__ import annotations

import time
from collections.abc import Callable

BootTime = Callable[[], float]

_CLOCK: int = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def boottime() -> float:
    """Seconds since some moment; only differences mean something."""
    return time.clock_gettime(_CLOCK)
