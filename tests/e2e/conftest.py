"""The pair that the end-to-end tests share, and the search for secrets when all of them are done."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from _pytest.runner import runtestprotocol

from tests.e2e.processes import Pair, running_up
from tests.support.bystanders import HarmedError
from tests.support.leaks import Secrets

MEASUREMENTS = 3


def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Measures up to three times beside an attack, until nobody was served worse."""
    if item.get_closest_marker("attack") is None:
        return None
    hook = item.ihook
    hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for attempt in range(1, MEASUREMENTS + 1):
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
        harmed = [str(report.longrepr) for report in reports if HarmedError.__name__ in str(report.longrepr)]
        if not harmed:
            break
        print(f"{item.nodeid}: measurement {attempt}:\n{harmed[0][-1000:]}")
    for report in reports:
        hook.pytest_runtest_logreport(report=report)
    hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


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
