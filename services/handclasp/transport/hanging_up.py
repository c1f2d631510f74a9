"""Closes the connections of a server, so that calls which are on their way to it fail as ones on a closed connection.

A gRPC server that stops says GOAWAY, and answers calls that were sent before it was heard with a bare CANCELLED: with
that, no client knows what became of them. On a connection that is closed it can say nothing, and clients find
UNAVAILABLE. gRPC has no call for that, so this is done to its sockets.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress

import structlog

_LOG = structlog.stdlib.get_logger(__name__)

_OPEN_FILES = "/dev/fd"


def hang_up(ports: Collection[int]) -> None:
    """Closes all TCP connections that this process has accepted on those ports, in both directions.

    What was handed to the kernel before is still sent. Listening goes on.
    """
    try:
        names = os.listdir(_OPEN_FILES)
    except OSError as error:
        _LOG.warning("connections_not_closed", error=str(error), hint=f"{_OPEN_FILES} is needed for it; mount /proc")
        return
    for connection in _sockets(names):
        with connection, suppress(OSError):  # not connected, or not any more
            if connection.family in (socket.AF_INET, socket.AF_INET6) and connection.getsockname()[1] in ports:
                connection.getpeername()
                connection.shutdown(socket.SHUT_RDWR)


def _sockets(names: Iterable[str]) -> Iterator[socket.socket]:
    """Those that are sockets, by descriptors of their own: gRPC's threads may close theirs at any moment."""
    for name in names:
        with suppress(OSError):  # closed meanwhile
            descriptor = os.dup(int(name))
            if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                yield socket.socket(fileno=descriptor)
            else:
                os.close(descriptor)
