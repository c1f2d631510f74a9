"""What tests need that start a service in their own process."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import structlog

from handclasp.serving.log_streams import CHANGES_LOGGER


@pytest.fixture
def logging_as_before() -> Iterator[None]:
    """Logging is set up once for a process; afterwards it is as it was."""
    root, changes = logging.getLogger(), logging.getLogger(CHANGES_LOGGER)
    handlers, level = root.handlers[:], root.level
    # Handlers are closed when they are replaced, and these are pytest's.
    root.handlers = []
    yield
    for handler in (*root.handlers, *changes.handlers):
        handler.close()
    changes.handlers = []
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()
