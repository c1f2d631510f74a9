"""Why a database cannot be used, in words for its operator."""

from __future__ import annotations

import re

from sqlalchemy.exc import SQLAlchemyError

# What drivers say, and what it means. Their own words are not passed on, since they may hold what is in the URL. The
# first that fits counts.
_FAULTS = tuple(
    (re.compile(said, re.IGNORECASE), meaning)
    for said, meaning in (
        ("unable to open database file", "its file cannot be opened; check database_url, and who owns the folder"),
        (
            "file is not a database|malformed",
            "its file is no database, or is damaged; check database_url, or restore it from your backup",
        ),
        (
            "disk is full|no space left",
            "its disk is full; make room there",
        ),
        ("disk i/o error", "its disk fails, or has no room; look there"),
        (
            "read-only transaction",
            "it is read-only, a standby perhaps; have database_url name the server that can be written to",
        ),
        (
            "database is locked|readonly database",
            "its file is locked or cannot be written to; check what else uses it, and who owns it",
        ),
        (
            "failed to resolve|could not translate host name|name or service not known",
            "the name of its host is unknown; check the one in database_url",
        ),
        (
            "authentication failed|no password supplied|pg_hba",
            "it refuses the user or the password; check those in database_url (HANDCLASP_CERTIFICATES_DATABASE_URL)",
        ),
        ('role ".*" does not exist', "it does not know the user; check the one in database_url"),
        ('database ".*" does not exist', "it has no database of that name; check database_url, or create it"),
        (
            "connection refused|no such file or directory",
            "the connection is refused; check host and port in database_url, and that the server is up",
        ),
        ("timeout|timed out", "it does not answer; check host and port in database_url, and that the server is up"),
    )
)


def database_fault(error: SQLAlchemyError) -> str:
    """What is wrong and what to do, in a line that has nothing of the URL."""
    said = str(getattr(error, "orig", None) or "")
    for pattern, meaning in _FAULTS:
        if pattern.search(said):
            return f"the database cannot be used: {meaning}"
    return f"the database cannot be used: {type(error).__name__}; check database_url, and that the server is up"
