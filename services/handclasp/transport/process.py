"""What starting a service's process has in common, whichever service it is."""

from __future__ import annotations

import difflib
import errno
import json
import os
import sys
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, NoReturn, Protocol, TypeVar

import grpc
from pydantic import ValidationError

from handclasp.errors import Reason
from handclasp.serving.files import write_atomically
from handclasp.transport.event_loop import run_to_the_end
from handclasp.transport.file_descriptors import raise_limit
from handclasp.transport.lifecycle import ServiceFailedError
from handclasp.transport.logs import LogSettings, set_up_logging
from handclasp.transport.settings import SETTINGS_FILE, SETTINGS_FILE_VARIABLE, SectionSettings


class ProcessSettings(Protocol):
    """What settings of every service have."""

    @property
    def log(self) -> LogSettings: ...

    @property
    def ready_file(self) -> Path | None: ...


S = TypeVar("S", bound=ProcessSettings)

_UNPRIVILEGED = 1024
_USAGE = 2

PORT_TAKEN = "cannot listen on"
"""What the message of `port_taken` begins with."""


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
    privileged = ", or only root may take ports below 1024" if 0 < port < _UNPRIVILEGED else ""
    return StartError(
        f"{PORT_TAKEN} {host} port {port}: another process has it, or the address is not this machine's{privileged};"
        f" stop that process, or set {setting} (0: any free one) or the host"
    )


def write_ready_file(path: Path, ports: Mapping[str, str | int | list[int]]) -> None:
    """Says that a service is ready, to whoever waits for the file: JSON with `ports` and the process's id.

    Raises:
        StartError: it cannot be written.
    """
    text = json.dumps({**ports, "process_id": os.getpid()})
    try:
        write_atomically(path, f"{text}\n".encode())
    except OSError as error:
        raise _not_usable("ready_file", path, error) from error


def refuse_unwritable(ready_file: Path | None) -> None:
    """Before anything is made that stays, such as an installation.

    Raises:
        StartError: the ready file cannot be written.
    """
    if ready_file is None:
        return
    folder = ready_file.parent
    try:
        folder.stat()
    except OSError as error:
        raise _not_usable("ready_file", ready_file, error) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise _not_usable("ready_file", ready_file, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))


def _not_usable(setting: str, path: Path, error: OSError) -> StartError:
    advice = "make room on its disk" if error.errno == errno.ENOSPC else "make its folder"
    return StartError(f"{setting}: {path} cannot be written: {error.strerror}; {advice}, or choose another one")


def run_process(
    name: str,
    kind: type[SectionSettings],
    read_settings: Callable[[], S],
    serve: Callable[[S], Coroutine[Any, Any, None]],
    *,
    options: Mapping[str, str] | None = None,
) -> None:
    """A service as a process: reads its settings, sets up the log, runs it, and exits with status 2 if the settings do
    not fit, with status 1 if it cannot start, or a part of it fails later.

    Args:
        name: what the message begins with.
        kind: of the settings.
        options: of the command line, by the setting that each is for; to be named if a required one is not set.
        read_settings: raises ValueError (pydantic's are) or OSError.
    """
    try:
        settings = read_settings()
    except (ValueError, OSError) as error:
        _refuse_settings(name, settings_fault(error, kind, options or {}))
    run_with_settings(name, settings, serve)


def run_with_settings(name: str, settings: S, serve: Callable[[S], Coroutine[Any, Any, None]]) -> None:
    """`run_process` from where the settings are there."""
    try:
        set_up_logging(settings.log)
    except ValueError as error:
        _refuse_settings(name, f"log: {error}")
    except OSError as error:
        _refuse_start(name, _not_usable("log.file", settings.log.file or Path(), error))
    raise_limit()
    try:
        refuse_unwritable(settings.ready_file)
        run_to_the_end(serve(settings))
    except StartError as error:
        _refuse_start(name, error)
    except ServiceFailedError:
        print(
            f"{Reason.INTERNAL}: {name}: stopped, since a part of it failed; the log says which and why",
            file=sys.stderr,
        )
        sys.exit(1)


def settings_fault(error: Exception, kind: type[SectionSettings], options: Mapping[str, str]) -> str:
    """What is wrong with settings, in one line and without their values, which may be secret."""
    if isinstance(error, ValidationError):
        faults = error.errors(include_url=False, include_input=False, include_context=False)
        return "; ".join(
            _fault(fault["type"], [str(part) for part in fault["loc"]], fault["msg"], kind, options) for fault in faults
        )
    if isinstance(error, FileNotFoundError) and str(error.filename) == os.environ.get(SETTINGS_FILE_VARIABLE):
        return f"{SETTINGS_FILE_VARIABLE} names {error.filename}, which is not there"
    if isinstance(error, OSError) and error.filename:
        return f"{Path(error.filename).absolute()} cannot be read: {error.strerror}"
    return str(error)


def _fault(
    fault: str, location: list[str], message: str, kind: type[SectionSettings], options: Mapping[str, str]
) -> str:
    name = ".".join(location)
    if fault == "missing":
        variable = f"{kind.model_config['env_prefix']}{'__'.join(location).upper()}"
        ways = [*([options[name]] if name in options else []), variable]
        return f"[{kind.section}] {name} is not set: use {', '.join(ways)} or {SETTINGS_FILE}"
    if fault in ("extra_forbidden", "unexpected_keyword_argument"):
        *parents, unknown = location
        near = difflib.get_close_matches(unknown, _names(kind, parents), n=1)
        advice = f"; did you mean {'.'.join([*parents, *near])}?" if near else ""
        return f"[{kind.section}] has no setting {name}{advice}"
    if fault in ("tuple_type", "list_type", "set_type", "frozen_set_type"):
        return f'{name}: must be a list, such as ["one", "another"]'
    # What our own checks say; of several settings at once, they name them.
    message = message.removeprefix("Value error, ")
    return f"{name}: {message}" if name else message


def _names(kind: type[SectionSettings], parents: list[str]) -> list[str]:
    """The names of a section's settings, or of those in one of its settings."""
    within: Any = kind
    for parent in parents:
        within = within.model_fields[parent].annotation
    if is_dataclass(within):
        return [field.name for field in fields(within)]
    return list(within.model_fields)


def fault_prefix(name: str) -> str:
    """What the line begins with in which a process says why it cannot start: the form of all the command's errors."""
    return f"{Reason.START_NOT_POSSIBLE}: {name}: "


def _refuse_settings(name: str, fault: str) -> NoReturn:
    print(f"{fault_prefix(name)}the settings do not fit: {fault}", file=sys.stderr)
    sys.exit(_USAGE)


def _refuse_start(name: str, error: StartError) -> NoReturn:
    print(f"{fault_prefix(name)}{error}", file=sys.stderr)
    sys.exit(1)
