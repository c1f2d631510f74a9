"""The clocks that leases and validities are read from."""

from __future__ import annotations

import time
from collections.abc import Callable

Clock = Callable[[], float]
"""Gives seconds. What they count from is of no matter for leases; for validities it is 1970."""

# Goes on while the machine is suspended, and a lease has to run out meanwhile. Linux has it.
_BOOT_TIME: int | None = getattr(time, "CLOCK_BOOTTIME", None)


def lease_clock() -> float:
    """Seconds on a clock that nobody sets and, where there is one, that no suspension stops."""
    return time.monotonic() if _BOOT_TIME is None else time.clock_gettime(_BOOT_TIME)


def wall_clock() -> float:
    """Seconds since 1970, as certificates count."""
    return time.time()
