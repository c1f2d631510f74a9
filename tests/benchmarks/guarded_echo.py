"""The echo once more, behind the library's interceptor: what being a relying party costs a server."""

from __future__ import annotations

import asyncio
from multiprocessing.connection import Connection

from handclasp.relying_party import EXECUTE_INTEGRATIONS, Requirement
from tests.benchmarks.echo import METHOD, serve_echo
from tests.benchmarks.relying_parties import PartyPlace

_REQUIREMENTS = {METHOD: Requirement(EXECUTE_INTEGRATIONS, "integrations/echo")}


def run_guarded_echo(connection: Connection, place: PartyPlace) -> None:
    """The process. As `run_echo`."""
    asyncio.run(_serve(connection, place))


async def _serve(connection: Connection, place: PartyPlace) -> None:
    async with place.relying_party() as relying_party:
        await serve_echo(connection, relying_party.server_credentials(), [relying_party.interceptor(_REQUIREMENTS)])
