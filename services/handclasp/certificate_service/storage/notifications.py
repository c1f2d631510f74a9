"""What the processes that serve one PostgreSQL tell each other, by its NOTIFY: for speed only.

Notifications can be lost, and with some poolers never come. Whoever counts on hearing of something reads it as well.
And anybody who may connect to the database may notify, so what is acted on unread is sealed.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
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
_LONGEST_NUMBER = 19  # digits, of 63 bits
_SEAL_DIGITS = 32

REVISIONS = "revisions"
"""A revision was committed: its number."""
BARRIER = "barrier"
"""Somebody waits for a revision: its number and mark."""
SETTLED = "settled"
"""A process has settled a revision: its id, the revision's number and mark, how many acknowledged, how many leases
ended, and how many of those had lost their own right."""

Heard = Callable[[str], None]


def number(text: str) -> int | None:
    """The number that a text is, if it can be a revision's or a count."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= _LONGEST_NUMBER else None


class Seals:
    """Tells what the processes say from what somebody else says who may connect to the database, and no more.

    Args:
        secret: all of them have it, and nobody who cannot read the database's tables.
    """

    def __init__(self, secret: bytes) -> None:
        self._key = hmac.digest(secret, b"handclasp notifications", hashlib.sha256)

    def seal(self, channel: str, text: str) -> str:
        """The text, so that `opening` takes it for one of theirs."""
        return f"{text}:{self._code(channel, text)}"

    def opening(self, channel: str, heard: Heard) -> Heard:
        """Has `heard` called with what is said on the channel, without its seal, if that is right."""

        def look(sealed: str) -> None:
            text, _, code = sealed.rpartition(":")
            if hmac.compare_digest(code.encode(), self._code(channel, text).encode()):
                heard(text)
            else:
                _LOG.warning("notification_makes_no_sense", channel=channel)

        return look

    def _code(self, channel: str, text: str) -> str:
        said = f"{channel}:{text}".encode()
        return hmac.new(self._key, said, hashlib.sha256).hexdigest()[:_SEAL_DIGITS]


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
                    delay = _FIRST_RETRY
                    await self._listen(connection)
            except (psycopg.Error, UnicodeError) as error:
                # The latter if somebody says what is no text, on a database without an encoding.
                _LOG.warning("not_listening", error=type(error).__name__, retry_in=delay)
                await asyncio.sleep(delay)
                delay = min(2 * delay, _LAST_RETRY)

    async def _listen(self, connection: Any) -> None:
        for channel in self._heard:
            await connection.execute(f"LISTEN {channel}")
        for connected in self._connected:
            connected()
        async for notification in connection.notifies():
            heard = self._heard.get(notification.channel)
            if heard is not None:
                heard(notification.payload)
