"""What the processes that serve one PostgreSQL tell each other, by its NOTIFY: for speed only.

Notifications can be lost, and with some poolers never come. Whoever counts on hearing of something reads it as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import structlog
from sqlalchemy import func, literal, select
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncConnection

_LOG = structlog.stdlib.get_logger(__name__)

_PREFIX = "handclasp_"
_FIRST_RETRY = 0.1
_LAST_RETRY = 2.0
_CONNECT_SECONDS = 5
_SILENCE_MILLISECONDS = 10_000

REVISIONS = "revisions"
"""A revision was committed: its number."""
BARRIER = "barrier"
"""Somebody waits for a revision: its number."""
SETTLED = "settled"
"""A process has settled a revision: its id, the revision, how many acknowledged, how many leases ended."""

Heard = Callable[[str], None]


async def say(connection: AsyncConnection, channel: str, text: str) -> None:
    """Tells all who listen, once the connection's transaction is committed."""
    await connection.execute(select(func.pg_notify(literal(f"{_PREFIX}{channel}"), literal(text))))


class Listener:
    """Hears what is said on one PostgreSQL, over a connection of its own.

    Args:
        url: of SQLAlchemy's; may hold a password.
    """

    def __init__(self, url: str) -> None:
        self._url = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
        self._heard: dict[str, Heard] = {}
        self._connected: list[Callable[[], None]] = []

    def on(self, channel: str, heard: Heard) -> None:
        """Has `heard` called with each text on a channel. To be said before `run`."""
        self._heard[f"{_PREFIX}{channel}"] = heard

    def on_connected(self, connected: Callable[[], None]) -> None:
        """Has `connected` called whenever it begins to listen: what was said before was not heard."""
        self._connected.append(connected)

    async def run(self) -> None:
        """Listens until cancelled, over a new connection if the old one breaks."""
        import psycopg  # noqa: PLC0415 - there only with PostgreSQL

        delay = _FIRST_RETRY
        while True:
            try:
                connection = await psycopg.AsyncConnection.connect(
                    self._url,
                    autocommit=True,
                    connect_timeout=_CONNECT_SECONDS,
                    tcp_user_timeout=_SILENCE_MILLISECONDS,
                    keepalives_idle=5,
                    keepalives_interval=2,
                    keepalives_count=2,
                )
                async with connection:
                    await self._listen(connection)
            except psycopg.Error as error:
                _LOG.warning("not_listening", error=type(error).__name__, retry_in=delay)
                await asyncio.sleep(delay)
                delay = min(2 * delay, _LAST_RETRY)
            else:
                delay = _FIRST_RETRY

    async def _listen(self, connection: Any) -> None:
        for channel in self._heard:
            await connection.execute(f"LISTEN {channel}")
        for connected in self._connected:
            connected()
        async for notification in connection.notifies():
            heard = self._heard.get(notification.channel)
            if heard is not None:
                heard(notification.payload)
