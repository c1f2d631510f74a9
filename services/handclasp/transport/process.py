"""What starting a service's process has in common, whichever service it is."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import grpc

from handclasp.transport.files import write_atomically


class StartError(Exception):
    """A service cannot start. The message says why, and what to do."""


def listen(server: grpc.aio.Server, host: str, port: int, credentials: grpc.ServerCredentials, *, setting: str) -> int:
    """Opens a TLS port and returns its number, which is another one if `port` is 0.

    Args:
        setting: the name of the setting that has the port, for the message.
    Raises:
        StartError: the port is taken, or the address is not this machine's.
    """
    address = f"[{host}]" if ":" in host else host
    try:
        return server.add_secure_port(f"{address}:{port}", credentials)
    except RuntimeError as error:
        raise port_taken(setting, host, port) from error


def port_taken(setting: str, host: str, port: int) -> StartError:
    return StartError(
        f"cannot listen on {host} port {port}: another process has it, or the address is not this machine's; stop that"
        f" process, or set {setting} (0: any free one)"
    )


def write_ready_file(path: Path, ports: Mapping[str, str | int]) -> None:
    """Says that a service is ready, to whoever waits for the file: JSON with `ports` and the process's id."""
    text = json.dumps({**ports, "process_id": os.getpid()})
    write_atomically(path, f"{text}\n".encode())
