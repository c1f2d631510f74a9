"""The logger of changes: who issued, revoked, made, edited what. They are a stream of their own, which nothing else can
push out of its file: see `handclasp.transport.logs`."""

from __future__ import annotations

import structlog

from handclasp.serving.log_streams import CHANGES_LOGGER, CHANGES_STREAM

CHANGES: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(CHANGES_LOGGER, stream=CHANGES_STREAM)
