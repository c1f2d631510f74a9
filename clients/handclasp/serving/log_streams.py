"""Streams of the log, which whoever reads it tells apart by the field `stream`, and by the logger."""

from __future__ import annotations

CHANGES_STREAM = "changes"
CHANGES_LOGGER = "handclasp.changes"
"""Of what somebody changed. It is logged whatever the level is, and in a file of its own if there are files."""
