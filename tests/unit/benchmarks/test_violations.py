"""None is lost in the counting."""

from __future__ import annotations

import asyncio

from tests.benchmarks.violations import count


async def test_each_violation_counts_however_many_are_tried_at_once() -> None:
    tried = 0

    async def is_violation() -> bool:
        nonlocal tried
        tried += 1
        number = tried
        await asyncio.sleep(0.001 * (number % 3))
        return number % 2 == 0

    assert await count(is_violation, 200) == 100
    assert tried == 200
