"""Whether ports can be listened on, found out before anything is made that a failed start would leave behind."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass

from handclasp.transport.process import port_taken


@dataclass(frozen=True, slots=True)
class WantedPort:
    """A port that a service is to listen on.

    Attributes:
        port: 0 for any that is free.
        setting: the name of the setting that has it, for the message.
    """

    host: str
    port: int
    setting: str


def check_ports(wanted: Iterable[WantedPort]) -> None:
    """Takes all of the ports for a moment. Somebody else may take one after that: whoever listens finds out.

    Raises:
        StartError: somebody has one of them, two of them are the same, or an address is not this machine's.
    """
    with ExitStack() as stack:
        for port in wanted:
            try:
                _bind(port, stack)
            except OSError as error:
                raise port_taken(port.setting, port.host, port.port) from error


def _bind(wanted: WantedPort, stack: ExitStack) -> None:
    """Raises OSError if none of the addresses can be had, which is when gRPC gives up, too."""
    found = socket.getaddrinfo(wanted.host, wanted.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    fault: OSError | None = None
    bound = 0
    for family, address in dict.fromkeys((family, address) for family, *_, address in found):
        try:
            holder = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
            # Connections of a process that has ended do not stand in the way; listeners do, shared ones too.
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            holder.bind(address)
            # Without it, the next one in this list could be bound to the same port.
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
            bound += 1
        except OSError as error:
            fault = error
    if not bound:
        raise fault or OSError(errno.EADDRNOTAVAIL, "the name has no address")
