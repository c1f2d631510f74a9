"""Streams of the log, which whoever reads it tells apart by the field `stream`, and by the logger."""

from __future__ import annotations

CHANGES_STREAM = "changes"
CHANGES_LOGGER = "handclasp.changes"
"""Of what somebody changed. If the log goes to a file, it is in one of its own, too, whatever the level is."""
