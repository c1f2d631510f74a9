"""What all tests share: databases, hypothesis profiles, and the one PostgreSQL of the run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest
from hypothesis import HealthCheck, settings

from handclasp.serving.refusal_log import refusal_log
from tests.support.postgres import PostgresRun, PostgresServer, PostgresUnavailable

# `default` finds the same examples each time, so that a red run can be run again; `fuzz` (`make fuzz`) finds new ones.
# No deadlines: two cores that are busy with other tests say nothing of how fast the code is.
settings.register_profile(
    "default", max_examples=25, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("fuzz", settings.get_profile("default"), max_examples=250, derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

# Tests serve within this process, where nobody takes what gRPC writes of refused handshakes out of standard error.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

POSTGRES_RUN = pytest.StashKey[PostgresRun]()


class XdistNode(Protocol):
    """What pytest-xdist hands to `pytest_configure_node`, as far as it is used here."""

    config: pytest.Config
    workerinput: dict[str, object]


def pytest_configure(config: pytest.Config) -> None:
    worker: dict[str, str] | None = getattr(config, "workerinput", None)
    if worker is None:
        config.stash[POSTGRES_RUN] = PostgresRun.begin()
    else:
        config.stash[POSTGRES_RUN] = PostgresRun(Path(worker["postgres_folder"]), int(worker["postgres_owner"]))


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: XdistNode) -> None:
    run = node.config.stash[POSTGRES_RUN]
    node.workerinput.update(postgres_folder=str(run.folder), postgres_owner=str(run.owner))


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        config.stash[POSTGRES_RUN].end()


@pytest.fixture(autouse=True)
def _each_refusal_is_a_first_one() -> None:
    """A process logs equal refusals once a minute."""
    refusal_log().close()


@pytest.fixture(scope="session")
def postgres(pytestconfig: pytest.Config) -> PostgresServer:
    """The PostgreSQL of the run; `with postgres.database() as url:` is a new database. Skips where there is none."""
    try:
        return pytestconfig.stash[POSTGRES_RUN].server()
    except PostgresUnavailable as error:
        pytest.skip(str(error))


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database of the test's own; each test that asks for it runs on both kinds."""
    if request.param == "sqlite":
        yield f"sqlite+aiosqlite:///{tmp_path / 'database.sqlite'}"
    else:
        server: PostgresServer = request.getfixturevalue("postgres")
        with server.database() as url:
            yield url
