"""An open database with the schema, on each kind."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from handclasp.certificate_service.storage.database import Database, open_database
from handclasp.certificate_service.storage.migrate import migrate


@pytest_asyncio.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """A database of the test's own, with all tables and nothing in them."""
    opened = open_database(database_url)
    try:
        await migrate(opened)
        yield opened
    finally:
        await opened.close()
