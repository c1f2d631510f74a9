"""Has this process told of TLS handshakes that gRPC refuses, which happens before any of our code runs.

File descriptor 2 becomes a pipe that `stderr_relay.py` reads, a process of its own: see there. Python's own standard
error goes on to where it went, past the pipe.
"""

from __future__ import annotations

import faulthandler
import fcntl
import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

_RELAY = Path(__file__).with_name("stderr_relay.py")
_VERBOSITY = "GRPC_VERBOSITY"
_STANDARD_ERROR = 2
_LARGE_PIPE = 1024 * 1024
_LAST_WORDS = 0.5  # seconds

# What gRPC would have written by itself at that verbosity, which is still passed on.
_LEVELS = {"NONE": "F", "ERROR": "EF", "INFO": "WIEF", "DEBUG": "DWIEF"}


@dataclass(frozen=True, slots=True)
class Heard:
    """Refused handshakes of one kind that followed each other within a moment.

    Attributes:
        reason: as `stderr_relay.py` names them.
        time: of the last one, in seconds on the monotonic clock.
    """

    reason: str
    count: int
    time: float


class HandshakeWatch:
    """What the relay tells. One at a time in a process; made by `handshake_watch`."""

    def __init__(self, pipe: int, standard_error: int, levels: str) -> None:
        self._pipe = pipe
        self._standard_error = standard_error
        self._levels = levels
        self._begun = b""
        self.events, self._process = self._start()

    def restart(self) -> None:
        """Starts another relay in place of one that ended. What was written meanwhile is in the pipe."""
        self._process.wait()
        os.close(self.events)
        self._begun = b""
        self.events, self._process = self._start()

    def read(self) -> list[Heard] | None:
        """What was told since; None if the relay has ended. Does not block."""
        heard: list[Heard] = []
        while True:
            try:
                data = os.read(self.events, _LARGE_PIPE)
            except BlockingIOError:
                return heard
            if not data:
                return heard or None
            *lines, self._begun = (self._begun + data).split(b"\n")
            for line in lines:
                reason, count, moment = line.decode().split()
                heard.append(Heard(reason, int(count), float(moment)))

    def close(self) -> None:
        """To be called when nothing of this process's writes to the pipe any more."""
        os.close(self._pipe)
        with suppress(subprocess.TimeoutExpired):
            # What integrations have started may have the pipe for longer. The relay goes on for those by itself.
            self._process.wait(_LAST_WORDS)
        os.close(self.events)

    def _start(self) -> tuple[int, subprocess.Popen[bytes]]:
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        own = (self._pipe, writing, self._standard_error)
        try:
            process = subprocess.Popen(  # noqa: S603 a file of this package
                [sys.executable, "-I", "-S", str(_RELAY), *map(str, own), self._levels],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                # Not the pipe: the relay would wait for its own end.
                stderr=self._standard_error,
                pass_fds=own,
                start_new_session=True,
            )
        except OSError:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        return reading, process


_current: ContextVar[HandshakeWatch | None] = ContextVar("handclasp_handshake_watch", default=None)


def current_handshake_watch() -> HandshakeWatch | None:
    """The one that this runs within, if any."""
    return _current.get()


@contextmanager
def handshake_watch() -> Iterator[None]:
    """Within, this process is told of refused handshakes. For the process's main, before anything imports gRPC.

    If no relay can be started, standard error says so, and all else is as it would be without this.
    """
    if "grpc" in sys.modules:
        raise RuntimeError("gRPC reads how much it is to tell when it is imported; enter this before")
    sys.stderr.flush()
    wanted = os.environ.get(_VERBOSITY, "ERROR").upper()
    with ExitStack() as stack:
        real = os.dup(_STANDARD_ERROR)
        stack.callback(os.close, real)
        reading, writing = os.pipe()
        with suppress(OSError, AttributeError):
            # More room, for when the machine is busy. Linux has that, and may say no.
            fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, _LARGE_PIPE)
        try:
            watch = HandshakeWatch(reading, real, _LEVELS.get(wanted, "EF"))
        except OSError as error:
            os.close(reading)
            os.close(writing)
            print(f"handclasp: refused TLS handshakes will not be told of: {error}", file=sys.stderr)
            os.environ.setdefault(_VERBOSITY, "ERROR")
            yield
            return
        stack.callback(watch.close)
        stack.enter_context(_python_past_the_pipe(real))
        stack.callback(os.dup2, real, _STANDARD_ERROR)
        os.dup2(writing, _STANDARD_ERROR)
        os.close(writing)
        _have_grpc_tell(wanted)
        token = _current.set(watch)
        stack.callback(_current.reset, token)
        yield


@contextmanager
def _python_past_the_pipe(descriptor: int) -> Iterator[None]:
    """Within, what Python itself writes to standard error goes straight there: no busy relay holds it up, and no line
    of it is taken for one of gRPC's."""
    before = sys.stderr
    encoding, errors = before.encoding, before.errors
    with open(descriptor, "w", buffering=1, encoding=encoding, errors=errors, closefd=False) as direct:
        sys.stderr = direct
        if faulthandler.is_enabled():
            faulthandler.enable(direct)
        try:
            yield
        finally:
            if faulthandler.is_enabled():
                faulthandler.enable(before)
            sys.stderr = before


def _have_grpc_tell(wanted: str) -> None:
    """Sets gRPC's verbosity, which it reads when it is imported; and not for processes that this one starts."""
    before = os.environ.get(_VERBOSITY)
    os.environ[_VERBOSITY] = "DEBUG" if wanted == "DEBUG" else "INFO"
    importlib.import_module("grpc")
    if before is None:
        del os.environ[_VERBOSITY]
    else:
        os.environ[_VERBOSITY] = before
