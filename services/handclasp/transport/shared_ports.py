"""Ports that several processes of one service share."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from handclasp.transport.process import port_taken


@contextmanager
def reserved_port(host: str, port: int, *, setting: str) -> Iterator[int]:
    """Keeps a port for the children of this process while inside, and yields its number. Nothing listens there by this.

    The kernel lets every process of a user join a port that is shared, and a stale one would silently take a part of
    the calls. So the port is taken as if it were not to be shared, which fails if anybody has it, shared or not; and
    only then marked as shared. Whoever else begins in this way is refused.

    Args:
        port: 0 for any that is free.
        setting: the name of the setting that has the port, for the message.

    Raises:
        StartError: somebody else has the port, or the address is not this machine's.
    """
    with ExitStack() as stack:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            for family, address in dict.fromkeys((family, address) for family, *_, address in found):
                holder = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
                # Connections of a process that has ended do not stand in the way; listeners do.
                holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                holder.bind((address[0], port, *address[2:]))
                port = holder.getsockname()[1]
                holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
                holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        except OSError as error:
            raise port_taken(setting, host, port) from error
        yield port
