"""Relying parties that do nothing but watch: whoever takes something away waits for them."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from multiprocessing.connection import Connection

from tests.benchmarks.relying_parties import PartyPlace

_STARTED_AT_ONCE = 10


def run_watchers(connection: Connection, place: PartyPlace) -> None:
    """The process. Takes how many there are to be in all, never fewer than before, and says so once each has a lease.
    Ends when the other end of the connection is closed."""
    asyncio.run(_serve(connection, place))


async def _serve(connection: Connection, place: PartyPlace) -> None:
    async with AsyncExitStack() as stack:
        present = 0
        try:
            while True:
                wanted = await asyncio.to_thread(connection.recv)
                while present < wanted:
                    more = min(_STARTED_AT_ONCE, wanted - present)
                    await asyncio.gather(*(_start(place, stack) for _ in range(more)))
                    present += more
                connection.send(present)
        except EOFError:
            return


async def _start(place: PartyPlace, stack: AsyncExitStack) -> None:
    relying_party = await stack.enter_async_context(place.relying_party())
    while not relying_party.ready:  # noqa: ASYNC110 - it tells nobody
        await asyncio.sleep(0.01)
