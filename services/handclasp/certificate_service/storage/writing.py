"""Whether the database can be written to at present.

What can be read goes on without that: decisions, leases, lists. So it is known apart, from writes that failed, and is
over once one has been carried through; no probe writes anything.
"""

from __future__ import annotations

import sqlite3
from enum import StrEnum
from pathlib import Path
from shutil import disk_usage

import structlog
from sqlalchemy import event
from sqlalchemy.engine import Engine, ExceptionContext

_LOG = structlog.stdlib.get_logger(__name__)

ROOM = 1024 * 1024
"""Bytes that a disk has to have free for SQLite: a few transactions, and the room to move its log into the database."""


class WriteFault(StrEnum):
    """Why nothing can be written, in words that anybody may read."""

    DISK_FULL = "the disk of the database is full"
    READ_ONLY = "the database is read-only"
    DISK_FAILS = "the disk of the database fails"


# The primary result code of SQLite, https://www.sqlite.org/rescode.html, and SQLSTATE of PostgreSQL.
_BY_SQLITE = {
    sqlite3.SQLITE_FULL: WriteFault.DISK_FULL,
    sqlite3.SQLITE_READONLY: WriteFault.READ_ONLY,
    sqlite3.SQLITE_IOERR: WriteFault.DISK_FAILS,
}
_BY_SQLSTATE = {"53100": WriteFault.DISK_FULL, "25006": WriteFault.READ_ONLY, "58030": WriteFault.DISK_FAILS}


def write_fault(error: BaseException | None) -> WriteFault | None:
    """What a driver's error, or SQLAlchemy's around it, says about writing; None if it says nothing."""
    said = getattr(error, "orig", None) or error
    if isinstance(said, sqlite3.Error):
        # Those that the module raises by itself have no code. The low byte is the primary one.
        return _BY_SQLITE.get(getattr(said, "sqlite_errorcode", 0) & 0xFF)
    return _BY_SQLSTATE.get(getattr(said, "sqlstate", None) or "")


class Writing:
    """What was last known about writing to the database.

    Args:
        folder: with the SQLite database; None if the database is elsewhere, and what its disk has free is not known.

    Attributes:
        fault: None as long as it can be written to.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self.fault: WriteFault | None = None

    def observe(self, engine: Engine) -> None:
        """Hears of each statement and commit that fails there."""

        @event.listens_for(engine, "handle_error")
        def on_error(context: ExceptionContext) -> None:
            fault = write_fault(context.original_exception)
            if fault is not None:
                self.failed(fault)

    def failed(self, fault: WriteFault) -> None:
        """Something could not be written."""
        if self.fault is not fault:
            _LOG.error("database_not_written", fault=fault.value, hint="what needs no write goes on")
        self.fault = fault

    def succeeded(self) -> None:
        """Something was written, and is on disk."""
        if self.fault is not None:
            _LOG.info("database_written_again")
        self.fault = None

    def has_room(self) -> bool:
        """Whether the disk has room for a few transactions, if that is known. If not, that is a fault.

        Small transactions can succeed on a disk that is full, in what SQLite's log has of it already; others fail.
        """
        if self._folder is None:
            return True
        try:
            free = disk_usage(self._folder).free
        except OSError:
            return True  # A write says more.
        if free < ROOM:
            self.failed(WriteFault.DISK_FULL)
        return free >= ROOM
