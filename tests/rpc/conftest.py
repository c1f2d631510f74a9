"""The certificate service that the tests of a module share, on each kind of database."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support.installation import Installation, running_installation
from tests.support.postgres import PostgresServer


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def module_database_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an empty database that a module's tests share."""
    if request.param == "sqlite":
        yield f"sqlite+aiosqlite:///{tmp_path_factory.mktemp('database') / 'database.sqlite'}"
    else:
        server: PostgresServer = request.getfixturevalue("postgres")
        with server.database() as url:
            yield url


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def installation(
    module_database_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Installation]:
    """A running certificate service. Tests share it, so each makes users of its own.

    Tests that use it are marked `pytestmark = pytest.mark.asyncio(loop_scope="module")`.
    """
    folder: Path = tmp_path_factory.mktemp("installation")
    async with running_installation(folder, module_database_url) as running:
        yield running
