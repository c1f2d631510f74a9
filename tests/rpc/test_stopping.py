"""A certificate service that is stopped does not keep those who watch it until its grace is over."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import grpc

from tests.support.installation import running_installation
from tests.support.raw_watcher import watching_from_now

GRACE = 300.0


async def test_watches_are_ended_at_once(database_url: str, tmp_path: Path) -> None:
    async with AsyncExitStack() as service:
        installation = await service.enter_async_context(running_installation(tmp_path, database_url, grace=GRACE))
        async with watching_from_now(installation) as watcher:
            ending = asyncio.create_task(watcher.end())
            async with asyncio.timeout(GRACE / 10):
                await service.aclose()
            assert await ending is grpc.StatusCode.UNAVAILABLE
