"""Runs both services as processes, and stops both if either ends or when told to."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handclasp.certificate_service.context_file import ContextFileError, write_context_file
from handclasp.certificate_service.data_folder import make_data_folder
from handclasp.certificate_service.first_start import Prepared, prepare
from handclasp.certificate_service.identities import CERTIFICATE, KEY
from handclasp.certificate_service.main import start_errors, utc_now
from handclasp.certificate_service.settings import CertificateServiceSettings
from handclasp.integration_execution.settings import ExecutionSettings
from handclasp.serving.files import write_atomically
from handclasp.transport.lifecycle import PARENT_PIPE_VARIABLE, StopRequests
from handclasp.transport.logs import LogSettings, set_up_logging
from handclasp.transport.ports import check_ports
from handclasp.transport.process import PORT_TAKEN, StartError, fault_prefix, refuse_unwritable, settings_fault

# A line of gRPC's core, which at times prints some whatever GRPC_VERBOSITY says. The services say in words of their own
# what is wrong.
_GRPC_CORE = re.compile(r"[DIWEF]\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ \S+:\d+\] ")

_START_TIMEOUT = 60.0
_STOP_TIMEOUT = 20.0
_LAST_WORDS = 1.0  # seconds until what an ended process said is read
_HOST = "localhost"


@dataclass(frozen=True, slots=True)
class RunningPair:
    """Both services, healthy.

    Attributes:
        addresses: `certificates_tls`, `certificates_mtls` and `executions`, each `host:port`.
        context_file: the administrator's; None if they are not to be given a certificate.
        logs: the folder with the logs of both.
    """

    prepared: Prepared
    addresses: Mapping[str, str]
    context_file: Path | None
    logs: Path


async def run_pair(
    data_dir: Path,
    *,
    free_ports: bool,
    ready_file: Path | None,
    prepared: Callable[[Prepared], None],
    ready: Callable[[RunningPair], None],
    stopping: Callable[[], None],
) -> None:
    """Runs both services until SIGINT or SIGTERM.

    Args:
        prepared: called before they start, since the administrator's password must not be lost if they cannot.
        ready: called once both are healthy.
        stopping: called before they are stopped, which lets calls in progress end.
        ready_file: written at the same time, and removed at the end.

    Raises:
        StartError: they cannot start, or one of them ended by itself.
    """
    refuse_unwritable(ready_file)
    stop = StopRequests()
    with stop.on_signals():
        async with AsyncExitStack() as stack:
            # Whatever ends this process closes the pipe, and the services stop by themselves.
            reading, writing = os.pipe()
            stack.callback(os.close, writing)
            stack.callback(os.close, reading)
            services = _Services(data_dir, reading, stop, free_ports=free_ports)
            stack.push_async_callback(services.stop)
            stack.callback(stopping)
            made = await services.prepare()
            prepared(made)
            pair = await services.start(made)
            if pair is None:
                return
            ready(pair)
            if ready_file is not None:
                _write_ready_file(ready_file, pair)
                stack.callback(ready_file.unlink, missing_ok=True)
            await services.wait()


class _Services:
    def __init__(self, data_dir: Path, pipe: int, stop: StopRequests, *, free_ports: bool) -> None:
        # Absolute, because the services and the ready file name what is in it.
        self._data_dir = Path.cwd() / data_dir
        self._logs = self._data_dir / "logs"
        self._pipe = pipe
        self._stop = stop
        self._ports = {"port": 0, "tls_port": 0, "mtls_port": 0, "health_port": 0} if free_ports else {}
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._voices: dict[str, _Voice] = {}

    async def start(self, prepared: Prepared) -> RunningPair | None:
        """Both services, healthy; None if a stop was asked for before they were.

        Raises:
            StartError
        """
        identity = prepared.execution_identity
        if identity is None:
            raise StartError(
                "the user execution-server is disabled, and everything would be refused to the execution server; run"
                f" `handclasp serve certificates --data-dir {shlex.quote(str(self._data_dir))}`, and then"
                " `handclasp user enable execution-server`"
            )
        ports = await self._start_certificates()
        if ports is None:
            return None
        addresses = {
            "certificates_tls": f"{_HOST}:{ports['tls_port']}",
            "certificates_mtls": f"{_HOST}:{ports['mtls_port']}",
        }
        ports = await self._start_executions(prepared.ca_file, identity, addresses["certificates_mtls"])
        if ports is None:
            return None
        addresses["executions"] = f"{_HOST}:{ports['port']}"
        context_file = None
        if prepared.administrator_identity is not None:
            try:
                context_file = write_context_file(self._data_dir, prepared.administrator_identity, addresses)
            except ContextFileError as error:
                raise StartError(str(error)) from error
        return RunningPair(prepared, addresses, context_file, self._logs)

    async def wait(self) -> None:
        """Returns when a stop is asked for.

        Raises:
            StartError: a service ended by itself.
        """
        await self._until(self._stop.wait())

    async def stop(self) -> None:
        """Stops the execution server, and then the certificate service that it asks."""
        for process in reversed(self._processes.values()):
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(process.wait(), _STOP_TIMEOUT)
            except TimeoutError:
                process.kill()
                await process.wait()
        for voice in self._voices.values():
            await voice.end()

    async def prepare(self) -> Prepared:
        """Makes what is missing in the data folder.

        Raises:
            StartError
        """
        try:
            given = {"data_dir": self._data_dir, **self._only("tls_port", "mtls_port", "health_port")}
            settings = CertificateServiceSettings(**given)
        except (ValueError, OSError) as error:
            raise StartError(
                f"the settings do not fit: {settings_fault(error, CertificateServiceSettings, {})}"
            ) from error

        def check() -> None:
            self._check_ports(settings)

        with start_errors():
            if not self._data_dir.exists():
                check()
            make_data_folder(self._data_dir)
            self._logs.mkdir(mode=0o700, exist_ok=True)
            set_up_logging(LogSettings(file=self._logs / "start.log"))
            return await prepare(settings, utc_now, execution_server=True, check=check)

    def _check_ports(self, certificates: CertificateServiceSettings) -> None:
        """Raises StartError if one of the services would find that it cannot listen."""
        with _cannot_start("certificates"):
            check_ports(certificates.wanted_ports)
        with _cannot_start("executions"):
            check_ports(self._execution_settings().wanted_ports)

    def _execution_settings(self) -> ExecutionSettings:
        """Those of the execution server, as far as they are known before it has an identity."""
        files = dict.fromkeys(("ca_file", "identity_cert", "identity_key"), self._data_dir)
        given: dict[str, Any] = {**files, **self._only("port", "health_port")}
        try:
            return ExecutionSettings(**given)
        except (ValueError, OSError) as error:
            raise StartError(f"the settings do not fit: {settings_fault(error, ExecutionSettings, {})}") from error

    async def _start_certificates(self) -> dict[str, Any] | None:
        settings = {"data_dir": self._data_dir, **self._only("tls_port", "mtls_port", "health_port")}
        return await self._spawn("certificates", "handclasp.certificate_service", settings)

    async def _start_executions(self, ca_file: Path, identity: Path, certificate_service: str) -> dict[str, Any] | None:
        settings = {
            "certificate_service": certificate_service,
            "ca_file": ca_file,
            "identity_cert": identity / CERTIFICATE,
            "identity_key": identity / KEY,
            **self._only("port", "health_port"),
        }
        return await self._spawn("executions", "handclasp.integration_execution", settings)

    def _only(self, *names: str) -> dict[str, Any]:
        return {name: port for name, port in self._ports.items() if name in names}

    async def _spawn(self, name: str, module: str, settings: Mapping[str, object]) -> dict[str, Any] | None:
        """Starts a service and waits until it is ready; what its ready file says."""
        ready_file = self._data_dir / f".{name}-ready.json"
        ready_file.unlink(missing_ok=True)
        prefix = f"HANDCLASP_{name.upper()}_"
        own = {**settings, "ready_file": ready_file, "log__file": self._logs / f"{name}.log"}
        environment = {f"{prefix}{key.upper()}": str(value) for key, value in own.items()}
        # A pipe of our own: with one of asyncio's, a process has not ended before all have that it was inherited by.
        reading, writing = os.pipe()
        self._voices[name] = _Voice(name, reading)
        try:
            self._processes[name] = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                module,
                env={**_environment_of(name), **environment, PARENT_PIPE_VARIABLE: str(self._pipe)},
                stdin=asyncio.subprocess.DEVNULL,
                stderr=writing,
                pass_fds=[self._pipe],
                # Ctrl-C is for this process, which then stops the services in order.
                start_new_session=True,
            )
        finally:
            os.close(writing)
        try:
            async with asyncio.timeout(_START_TIMEOUT):
                await self._until(_appearance(ready_file))
        except TimeoutError:
            raise StartError(
                f"the service {name} was not ready within {_START_TIMEOUT:.0f} s; see {self._logs / name}.log"
            ) from None
        return None if self._stop.requested else json.loads(ready_file.read_text(encoding="utf-8"))

    async def _until(self, event: Any) -> None:
        """Waits for an event, a stop, or the end of a service, which is an error."""
        ends = {asyncio.create_task(process.wait()): (name, process) for name, process in self._processes.items()}
        awaited = [asyncio.create_task(event), asyncio.create_task(self._stop.wait())]
        try:
            done, _ = await asyncio.wait({*ends, *awaited}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (*ends, *awaited):
                task.cancel()
        for task in done:
            if task in ends and not self._stop.requested:
                name, process = ends[task]
                fault = await self._voices[name].end()
                if fault is not None:
                    with _cannot_start(name):
                        raise StartError(fault)
                raise StartError(
                    f"the service {name} ended by itself ({_end(process.returncode)}), so both are stopped; look at the"
                    f" end of {self._logs / name}.log, then start again"
                )


@contextmanager
def _cannot_start(name: str) -> Iterator[None]:
    """Says which service it is that cannot start."""
    try:
        yield
    except StartError as error:
        fault = str(error)
        if fault.startswith(PORT_TAKEN):
            fault += "; `handclasp up --free-ports` takes free ones for all"
        raise StartError(f"the service {name} cannot start: {fault}") from error


def _environment_of(name: str) -> dict[str, str]:
    """This process's, without the settings of the other service. What integrations run in is not to hold the passphrase
    of the CA's keys, nor the database's password."""
    others = tuple(f"HANDCLASP_{other.upper()}_" for other in ("certificates", "executions") if other != name)
    return {variable: value for variable, value in os.environ.items() if not variable.startswith(others)}


class _Voice:
    """What a service says on standard error: passed on, but for the line that says why it cannot start.

    Args:
        pipe: to read from; closed here.
    """

    def __init__(self, name: str, pipe: int) -> None:
        self._prefix = fault_prefix(f"handclasp {name}")
        self._fault: str | None = None
        self._listening = asyncio.create_task(self._listen(pipe))

    async def end(self) -> str | None:
        """Why the service could not start, if it said so. To be called when it has ended.

        What integrations have started may live on with the other end of the pipe, and is not waited for.
        """
        await asyncio.wait({self._listening}, timeout=_LAST_WORDS)
        self._listening.cancel()
        await asyncio.wait({self._listening})
        return self._fault

    async def _listen(self, pipe: int) -> None:
        lines = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(lines), os.fdopen(pipe, "rb", buffering=0)
        )
        with closing(transport):
            async for line in _lines(lines):
                text = line.decode("utf-8", "backslashreplace")
                if text.startswith(self._prefix):
                    self._fault = text.removeprefix(self._prefix).strip()
                elif not _GRPC_CORE.match(text):
                    with suppress(OSError):  # It was closed here; the pipe is to be read all the same.
                        sys.stderr.write(text)


async def _lines(stream: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """The lines of a stream. One that is too long comes in parts: who writes it must not wait for a reader for ever."""
    while True:
        try:
            line = await stream.readuntil()
        except asyncio.IncompleteReadError as end:
            line = end.partial
        except asyncio.LimitOverrunError as overrun:
            line = await stream.readexactly(overrun.consumed)
        if not line:
            return
        yield line


def _end(status: int | None) -> str:
    if status is not None and status < 0:
        # Those between SIGRTMIN and SIGRTMAX have no names.
        names = {known.value: known.name for known in signal.Signals}
        return f"killed by {names.get(-status, f'signal {-status}')}"
    return f"exit status {status}"


async def _appearance(path: Path) -> None:
    while not path.exists():  # noqa: ASYNC110, ASYNC240 - another process makes it
        await asyncio.sleep(0.02)


def _write_ready_file(path: Path, pair: RunningPair) -> None:
    content = {
        **pair.addresses,
        "ca_file": str(pair.prepared.ca_file),
        "ca_fingerprint": pair.prepared.ca_fingerprint,
        "context_file": None if pair.context_file is None else str(pair.context_file),
    }
    write_atomically(path, f"{json.dumps(content, indent=2)}\n".encode(), 0o644)
