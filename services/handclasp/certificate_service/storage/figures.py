"""What is counted of the database while it is used."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, TypeAlias

from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from handclasp.serving.figures import Distribution

Operation: TypeAlias = Literal["lookup", "read", "write"]
"""A query for what decisions rest on, which many share; a snapshot or another query; a transaction that writes."""

OPERATIONS: tuple[Operation, ...] = ("lookup", "read", "write")

_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)


class DatabaseFigures:
    """Since the start.

    Attributes:
        seconds: how long each took, waiting for a connection included.
        failures: how many could not be carried through, or are in doubt.
        batches: how many writes each transaction of the group commit began with.
        waits: seconds from a write's submission until its transaction begins.
        run_again: shared transactions that were rolled back, and whose writes were run one by one.
    """

    def __init__(self) -> None:
        self.seconds: dict[Operation, Distribution] = {operation: Distribution() for operation in OPERATIONS}
        self.failures: Counter[Operation] = Counter()
        self.batches = Distribution(_BATCHES)
        self.waits = Distribution()
        self.run_again = 0

    @contextmanager
    def timed(self, operation: Operation) -> Iterator[None]:
        """Counts what happens within as one."""
        began = time.perf_counter()
        try:
            yield
        except Exception as error:
            fault = error if isinstance(error, SQLAlchemyError) else error.__cause__
            # That another process was quicker to put the same on file is no failure of the database.
            if isinstance(fault, SQLAlchemyError) and not isinstance(fault, IntegrityError):
                self.failures[operation] += 1
            raise
        finally:
            self.seconds[operation].observe(time.perf_counter() - began)
