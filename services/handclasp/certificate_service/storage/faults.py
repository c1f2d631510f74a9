"""Why a database cannot be used, in words for its operator."""

from __future__ import annotations

from sqlalchemy.exc import SQLAlchemyError

# What drivers say, in lower case, and what it means. Their own words are not passed on, since they may hold what is in
# the URL. The order counts: PostgreSQL's `authentication failed` comes with an address, too.
_FAULTS = (
    ("authentication failed", "it refuses the user or the password; check those in database_url"),
    ("no password supplied", "it wants a password; put one in HANDCLASP_CERTIFICATES_DATABASE_URL, or use ~/.pgpass"),
    ("pg_hba.conf", "it does not let this user in from here; check pg_hba.conf there"),
    ("role", "it does not know the user; check the one in database_url"),
    ("database", "it does not have that database; check the name in database_url, or create it"),
)
_REFUSED = "connection refused"
_UNKNOWN_HOST = ("failed to resolve", "could not translate host name", "name or service not known")


def database_fault(error: SQLAlchemyError) -> str:
    """What is wrong and what to do, without any of the URL's values."""
    said = str(getattr(error, "orig", None) or "").lower()
    return f"the database cannot be used: {_cause(said) or _unknown(error)}"


def _cause(said: str) -> str | None:
    if "unable to open database file" in said:
        return "its file cannot be opened; check database_url, and who owns the folder"
    if "not a database" in said or "malformed" in said:
        return "its file is no database, or is damaged; check database_url, or restore it from your backup"
    if "database is locked" in said or "readonly database" in said:
        return "its file is locked or cannot be written to; check what else uses it, and who owns it"
    if any(words in said for words in _UNKNOWN_HOST):
        return "the name of its host is unknown; check the one in database_url"
    if _REFUSED in said:
        return "the connection is refused; check host and port in database_url, and that the server is up"
    if "timeout" in said or "timed out" in said:
        return "it does not answer; check host and port in database_url, and that the server is up"
    for words, cause in _FAULTS:
        missing = words not in ("role", "database") or "does not exist" in said
        if words in said and missing:
            return cause
    return None


def _unknown(error: SQLAlchemyError) -> str:
    return f"{type(error).__name__}; check database_url, and that the server is up"
