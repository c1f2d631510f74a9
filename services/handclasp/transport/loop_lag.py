"""By how much the event loop is late, which holds up everybody."""

from __future__ import annotations

import asyncio

from handclasp.serving.figures import Distribution

INTERVAL = 0.25
"""Seconds between looks."""

_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class LoopLag:
    """Wakes up every now and then, and sees how late that is.

    Attributes:
        seconds: how late, of each look.
    """

    def __init__(self) -> None:
        self.seconds = Distribution(_BOUNDS)

    async def run(self) -> None:
        """Looks until cancelled."""
        time = asyncio.get_running_loop().time
        while True:
            due = time() + INTERVAL
            await asyncio.sleep(INTERVAL)
            self.seconds.observe(max(0.0, time() - due))
