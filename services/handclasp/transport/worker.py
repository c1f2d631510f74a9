"""A worker: one of several processes of a service that share its ports. Their parent is in `workers.py`."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import structlog

from handclasp.transport.process import ProcessSettings, run_with_settings

S = TypeVar("S", bound=ProcessSettings)


@dataclass(frozen=True, slots=True)
class Worker:
    """What a worker is told by its parent.

    Attributes:
        number: from 1.
        settings: the service's, as the parent read them: all workers have the same, also those that are started later.
        lock: the descriptor of the data folder's lock, which the parent holds; None if there is none.
        secret: the same 32 bytes for all workers, made at random when the parent started.
    """

    number: int
    settings: ProcessSettings
    lock: int | None
    secret: bytes


def write_worker(worker: Worker) -> bytes:
    """For the standard input of the process that is to be the worker. Has the secrets of the settings in it."""
    return pickle.dumps(worker)


def read_worker() -> Worker:
    """What this process's parent wrote to its standard input, which stays open for as long as the parent lives."""
    # From the process that started this one, by a pipe that nobody else has.
    worker: Any = pickle.load(sys.stdin.buffer)  # noqa: S301
    if not isinstance(worker, Worker):
        raise TypeError("this is started by `handclasp serve ... --workers`")
    structlog.contextvars.bind_contextvars(worker=worker.number)
    return worker


def run_worker(name: str, kind: type[S], serve: Callable[[S, Worker], Coroutine[Any, Any, None]]) -> None:
    """Runs this process as one of several, as its parent says.

    Args:
        name: what the message begins with if it cannot.
        kind: of the settings that the parent must have sent.
    """
    worker = read_worker()
    if not isinstance(worker.settings, kind):
        raise TypeError("these are another service's settings")
    run_with_settings(name, worker.settings, lambda settings: serve(settings, worker))


def log_file_of(number: int, file: Path | None) -> Path | None:
    """A worker's own log file, beside that of its parent: two processes cannot rotate one file."""
    return None if file is None else file.with_name(f"{file.stem}-{number}{file.suffix}")
