"""The pair that the end-to-end tests share, and the search for secrets when all of them are done."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.processes import Pair, running_up
from tests.support.leaks import Secrets


@pytest.fixture(scope="session")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secrets]:
    """The secrets of the run. At its end none of them may stand in any log; what fails then is the last test."""
    found = Secrets()
    found.watch(tmp_path_factory.getbasetemp())
    yield found
    leaks = found.leaks()
    assert not leaks, "\n".join(leaks)


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory, secrets: Secrets) -> Iterator[Pair]:
    """A pair that nobody kills, in a folder whose name a shell would stumble over."""
    folder = tmp_path_factory.mktemp("pair") / "it's ours & nobody else's"
    folder.mkdir()
    with running_up(folder) as running:
        assert running.administrator_password is not None
        secrets.add_password(running.administrator_password, "admin")
        yield running
        secrets.add_keys_below(folder)


@pytest.fixture
def folder(tmp_path: Path, secrets: Secrets) -> Iterator[Path]:
    """A folder for a test's own processes; the private keys in it at the end count as secrets."""
    yield tmp_path
    secrets.add_keys_below(tmp_path)
