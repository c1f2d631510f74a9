"""`make bench`: prints two tables. Goals are reported; only a call that failed, or one that was allowed after the
revocation of its certificate had returned, makes the exit status 1."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from tests.benchmarks import replicas, workers
from tests.benchmarks.barrier_report import make_barrier_table
from tests.benchmarks.measuring import FULL_SIZES, SIZES, Result, measure
from tests.benchmarks.processes import CallFailedError
from tests.benchmarks.report import make_table
from tests.benchmarks.services import ServicesError
from tests.support.postgres import PostgresRun, PostgresUnavailable


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--full", action="store_true", help="also with a million certificates on file")
    parser.add_argument("--postgresql", action="store_true", help="on PostgreSQL instead of SQLite")
    parser.add_argument("--workers", action="store_true", help="instead: two workers beside one, on PostgreSQL")
    parser.add_argument("--replicas", action="store_true", help="instead: three services on one PostgreSQL")
    chosen = parser.parse_args()
    sizes = FULL_SIZES if chosen.full else SIZES
    try:
        if chosen.workers:
            workers.main(_progress())
            return 0
        if chosen.replicas:
            replicas.main(_progress())
            return 0
        with tempfile.TemporaryDirectory(prefix="handclasp-bench-") as folder, _database(chosen.postgresql) as url:
            result = asyncio.run(measure(Path(folder), sizes, _progress(), database_url=url))
    except (CallFailedError, ServicesError, PostgresUnavailable) as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return 1
    _print(result, "PostgreSQL" if chosen.postgresql else "SQLite")
    if result.barrier.violations.allowed:
        print("benchmark: calls were allowed after the revocation of their certificate had returned", file=sys.stderr)
        return 1
    return 0


def _print(result: Result, database: str) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    console.print(make_table(result.sizes, database))
    console.print(make_barrier_table(result.barrier))


def _progress() -> Callable[[str], None]:
    """Says on standard error what is done, in one line that is written over, or a line each into a file."""
    begin = time.monotonic()

    def say(what: str) -> None:
        line = f"{time.monotonic() - begin:4.0f} s  {what}"
        print(f"\r\x1b[K{line}" if sys.stderr.isatty() else line, end=end, file=sys.stderr, flush=True)

    end = "" if sys.stderr.isatty() else "\n"
    return say


@contextmanager
def _database(postgresql: bool) -> Iterator[str | None]:
    """The URL of an empty PostgreSQL database, or None."""
    if not postgresql:
        yield None
        return
    run = PostgresRun.begin()
    try:
        with run.server().database() as url:
            yield url
    finally:
        run.end()


if __name__ == "__main__":
    sys.exit(main())
