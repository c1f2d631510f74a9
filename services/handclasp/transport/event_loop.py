"""Runs a service's event loop, to its end."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any

import structlog

_LOG = structlog.stdlib.get_logger(__name__)


def run_to_the_end(main: Coroutine[Any, Any, None]) -> None:
    """As `asyncio.run`, but only `main` ends it.

    asyncio lets SystemExit and KeyboardInterrupt out of its loop, from whatever task or callback they are raised in: so
    integrations, which are other people's code, could end the server by what they start in the background. Here the
    loop goes on. A signal is no KeyboardInterrupt while the loop has a handler for it (`StopRequests.on_signals`).
    """
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        task = loop.create_task(main)
        while not task.done():
            try:
                loop.run_until_complete(task)
            except (SystemExit, KeyboardInterrupt) as error:
                if task.done() or _was_typed(error):
                    raise
                _LOG.error("exit_in_background", error=type(error).__name__, exc_info=error)
        task.result()


def _was_typed(error: BaseException) -> bool:
    """Whether it is Python's own answer to Ctrl-C, before there is a handler, or when there is none any more."""
    return isinstance(error, KeyboardInterrupt) and signal.getsignal(signal.SIGINT) is signal.default_int_handler
