"""How many files a process may have open, since each connection is one."""

from __future__ import annotations

import dataclasses
import resource
from typing import TypeVar

import structlog

from handclasp.transport.server import ServerLimits

_LOG = structlog.stdlib.get_logger(__name__)

_FOR_OTHERS = 256
"""For the database, the log, health over HTTP and so on: without them a process with all its connections would fail."""

_ENOUGH = 1_048_576
"""What Linux allows a process at most, unless it is told otherwise; `unlimited` counts as this."""

L = TypeVar("L", bound=ServerLimits)


def raise_limit() -> None:
    """Lets this process, and those it starts, open as many files as they are allowed to (`LimitNOFILE=` of systemd).

    What a process has at first is often 1,024, for programs that know no more.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _ENOUGH if hard == resource.RLIM_INFINITY else hard
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (ValueError, OSError) as error:  # macOS says unlimited and allows less
        _LOG.warning("file_limit_not_raised", limit=soft, wanted=wanted, error=str(error))


def fitting(limits: L, *, listeners: int) -> L:
    """The limits, with no more connections than this process may open files. Logs if that is fewer than were set.

    gRPC stops accepting at the limit of files, and whoever else opens one then fails.

    Args:
        listeners: how many of this process have these limits.
    """
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return limits
    fit = max(1, (files - _FOR_OTHERS) // listeners)
    if limits.max_connections <= fit:
        return limits
    _LOG.warning(
        "fewer_connections",
        max_connections=fit,
        set=limits.max_connections,
        files=files,
        hint="the process may not open as many files; raise LimitNOFILE= (systemd) or `ulimit -n`",
    )
    return dataclasses.replace(limits, max_connections=fit)
