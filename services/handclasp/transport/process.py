"""What starting a service's process has in common, whichever service it is."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, NoReturn, Protocol, TypeVar

import grpc
from pydantic import ValidationError

from handclasp.transport.files import write_atomically
from handclasp.transport.logs import LogSettings, set_up_logging


class ProcessSettings(Protocol):
    """What settings of every service have."""

    @property
    def log(self) -> LogSettings: ...


S = TypeVar("S", bound=ProcessSettings)


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


def run_process(name: str, read_settings: Callable[[], S], serve: Callable[[S], Coroutine[Any, Any, None]]) -> None:
    """A service as a process: reads its settings, sets up the log, runs it, and exits with status 2 if the settings do
    not fit, with status 1 if it cannot start.

    Args:
        name: what the message begins with.
        read_settings: raises ValueError (pydantic's are) or OSError.
    """
    try:
        settings = read_settings()
        set_up_logging(settings.log)
    except (ValueError, OSError) as error:
        _exit(name, f"the settings do not fit: {settings_fault(error)}", 2)
    try:
        asyncio.run(serve(settings))
    except StartError as error:
        _exit(name, str(error), 1)


def settings_fault(error: Exception) -> str:
    """What is wrong with settings, in one line and without their values, which may be secret."""
    if isinstance(error, ValidationError):
        faults = error.errors(include_url=False, include_input=False, include_context=False)
        return "; ".join(f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}" for fault in faults)
    return str(error)


def _exit(name: str, message: str, status: int) -> NoReturn:
    print(f"{name}: {message}", file=sys.stderr)
    sys.exit(status)
