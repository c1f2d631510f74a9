"""Our commands as processes of their own, in folders of their own.

    with running_up(folder) as pair:
        pair.run("user", "create", "alice").json()
        pair.service("certificates").kill()

What each process says goes to files in its folder, where `leaks.py` looks for secrets at the end.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

HANDCLASP = Path(sys.executable).parent / "handclasp"
START_TIMEOUT = 60.0  # seconds; on two busy cores a start takes five
STOP_TIMEOUT = 30.0


def environment(**more: str | Path | int | None) -> dict[str, str]:
    """This process's environment, without what is meant for another installation; None removes a variable."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("HANDCLASP_")}
    variables["PATH"] = os.pathsep.join([str(HANDCLASP.parent), variables.get("PATH", os.defpath)])
    for name, value in more.items():
        if value is None:
            variables.pop(name, None)
        else:
            variables[name] = str(value)
    return variables


def wait_until(condition: Callable[[], bool], what: str, timeout: float = START_TIMEOUT) -> None:
    """Waits for something that another process does."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout:.0f} s: {what}"
        time.sleep(0.02)


_PORTS = (10_000, 32_000)
_random = random.SystemRandom()


def free_port() -> int:
    """A port that was free a moment ago, for processes that must come back on the same one.

    Below those that systems hand out by themselves: somebody's connection could have it while the process that is to
    come back is away.
    """
    while True:
        port = _random.randrange(*_PORTS)
        try:
            with socket.create_server(("127.0.0.1", port)):
                return port
        except OSError:
            continue


@dataclass(frozen=True)
class Finished:
    """A command that has ended."""

    status: int
    out: str
    errors: str

    def json(self) -> dict[str, Any]:
        """What it printed with `-o json`, if it succeeded."""
        assert self.status == 0, self
        answer: dict[str, Any] = json.loads(self.out)
        return answer

    def reason(self, status: int) -> str:
        """The reason that its one line of error begins with, if it ended with that status."""
        assert self.status == status, self
        lines = self.errors.splitlines()
        assert len(lines) == 1, self
        assert not self.out, self
        return lines[0].partition(":")[0]


def run_command(
    *arguments: str | Path,
    folder: Path,
    context: Path | None = None,
    given: str | None = None,
    variables: Mapping[str, str] | None = None,
) -> Finished:
    """Runs `handclasp` to its end. What it says is kept in `commands.log` in the folder, too, unless it is a token."""
    given_context = () if context is None else ("--context", context)
    finished = subprocess.run(
        [HANDCLASP, *given_context, *arguments],
        cwd=folder,
        env=environment() if variables is None else dict(variables),
        input=given,
        stdin=subprocess.DEVNULL if given is None else None,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=START_TIMEOUT,
        check=False,
    )
    with (folder / "commands.log").open("a", encoding="utf-8") as log:
        log.write(finished.stderr if arguments[:2] == ("admin", "token") else finished.stdout + finished.stderr)
    return Finished(finished.returncode, finished.stdout, finished.stderr)


class Process:
    """A process of ours that runs until it is stopped.

    Args:
        arguments: of `handclasp`.
        folder: where it runs, and where `NAME.out` and `NAME.err` go.
    """

    def __init__(
        self, name: str, *arguments: str | Path, folder: Path, variables: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self._out, self._errors = folder / f"{name}.out", folder / f"{name}.err"
        with self._out.open("wb") as out, self._errors.open("wb") as errors:
            self.popen = subprocess.Popen(
                [HANDCLASP, *arguments],
                cwd=folder,
                env=environment() if variables is None else dict(variables),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=errors,
                start_new_session=True,
            )

    @property
    def out(self) -> str:
        """What it printed so far."""
        return self._out.read_text(encoding="utf-8")

    @property
    def errors(self) -> str:
        """What it said on standard error so far."""
        return self._errors.read_text(encoding="utf-8")

    def wait_for(self, ready_file: Path) -> dict[str, Any]:
        """Waits until it is ready; what its ready file says."""
        wait_until(lambda: ready_file.exists() or self.popen.poll() is not None, f"{self.name} is ready")
        assert self.popen.poll() is None, (self.popen.returncode, self.errors)
        ready: dict[str, Any] = json.loads(ready_file.read_text(encoding="utf-8"))
        return ready

    def wait(self) -> int:
        """Its exit status."""
        return self.popen.wait(STOP_TIMEOUT)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Sends a signal and waits for its exit status."""
        self.popen.send_signal(number)
        return self.wait()

    def kill(self) -> None:
        """`kill -9`, as a power cut would."""
        self.popen.kill()
        self.popen.wait(STOP_TIMEOUT)

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        if self.popen.poll() is None:
            try:
                self.stop()
            except subprocess.TimeoutExpired:
                self.kill()


@dataclass(frozen=True)
class Pair:
    """Both services as `handclasp up` runs them."""

    folder: Path
    data_dir: Path
    ready_file: Path
    process: Process
    ready: dict[str, Any]

    @property
    def context_file(self) -> Path:
        """The administrator's."""
        return Path(self.ready["context_file"])

    @property
    def administrator_password(self) -> str | None:
        """As it was printed; None if it was not."""
        match = re.search(r"^Password: +(\S+)$", self.process.out, re.MULTILINE)
        return None if match is None else match[1]

    def run(self, *arguments: str | Path, given: str | None = None, context: Path | None = None) -> Finished:
        """Runs `handclasp`, as the administrator unless another context is given."""
        return run_command(*arguments, folder=self.folder, context=context or self.context_file, given=given)

    def json(self, *arguments: str | Path) -> dict[str, Any]:
        """Runs `handclasp ... -o json` as the administrator."""
        return self.run(*arguments, "-o", "json").json()

    def service(self, name: str) -> psutil.Process:
        """The process of `certificates` or `executions`."""
        ready = json.loads((self.data_dir / f".{name}-ready.json").read_text(encoding="utf-8"))
        return psutil.Process(ready["process_id"])


def start_up(folder: Path, *, data_dir: Path | None = None, variables: Mapping[str, str] | None = None) -> Process:
    """Starts `handclasp up` without waiting for it."""
    data_dir = data_dir or folder / "data"  # a relative one starts at `folder`, where the process runs
    arguments = ("up", "--data-dir", data_dir, "--free-ports", "--ready-file", folder / "ready.json")
    return Process("up", *arguments, folder=folder, variables=variables)


@contextlib.contextmanager
def running_up(
    folder: Path, *, data_dir: Path | None = None, variables: Mapping[str, str] | None = None
) -> Iterator[Pair]:
    """`handclasp up`, ready; stopped at the end if it still runs."""
    with start_up(folder, data_dir=data_dir, variables=variables) as process:
        ready_file = folder / "ready.json"
        ready = process.wait_for(ready_file)
        yield Pair(folder, folder / (data_dir or "data"), ready_file, process, ready)


@dataclass
class Deployment:
    """The services one by one, as `handclasp serve` runs them: they can be killed, and come back on the same ports."""

    folder: Path
    database_url: str | None = None
    ports: dict[str, int] = field(default_factory=lambda: {name: free_port() for name in ("tls", "mtls", "executions")})

    @property
    def data_dir(self) -> Path:
        """The certificate service's."""
        return self.folder / "data"

    @property
    def context_file(self) -> Path:
        """The administrator's."""
        return self.data_dir / "context.toml"

    @property
    def executions(self) -> str:
        """The execution server's address."""
        return f"localhost:{self.ports['executions']}"

    def certificates(self, variables: Mapping[str, str] | None = None) -> Process:
        """Starts the certificate service and waits for it.

        Args:
            variables: settings, by variable.
        """
        ready_file = self.folder / "certificates-ready.json"
        # What a killed process left says nothing of this one.
        ready_file.unlink(missing_ok=True)
        process = Process(
            "certificates",
            *("serve", "certificates", "--data-dir", self.data_dir, "--ready-file", ready_file),
            *("--tls-port", str(self.ports["tls"]), "--mtls-port", str(self.ports["mtls"]), "--health-port", "0"),
            folder=self.folder,
            variables=environment(
                **{
                    "HANDCLASP_CERTIFICATES_LOG__FILE": self.folder / "certificates.log",
                    "HANDCLASP_CERTIFICATES_DATABASE_URL": self.database_url,
                    **(variables or {}),
                }
            ),
        )
        process.wait_for(ready_file)
        return process

    def issue_execution_identity(self, name: str = "executions", *more: str) -> None:
        """What `handclasp up` does by itself: a user and a certificate for an execution server."""
        self.run("user", "create", f"{name}-1", "--profile", "relying-party").json()
        arguments = ("cert", "issue", "--user", f"{name}-1", "--server-name", "localhost")
        self.run(*arguments, "--out", self.identity(name), *more).json()

    def identity(self, name: str) -> Path:
        """The folder with an execution server's certificate and key."""
        return self.folder / ("identity" if name == "executions" else f"identity-{name}")

    def execution_server(
        self,
        name: str = "executions",
        *,
        service_port: int | None = None,
        services: str | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> Process:
        """Starts an execution server and waits for it. Under the same name it comes back on the same port.

        Args:
            service_port: where it reaches the certificate service, if not directly.
            services: several of them, as the command takes it.
            variables: settings, by variable.
        """
        port = self.ports.setdefault(name, free_port())
        ready_file = self.folder / f"{name}-ready.json"
        ready_file.unlink(missing_ok=True)
        identity = self.identity(name)
        process = Process(
            name,
            *(
                "serve",
                "executions",
                "--certificate-service",
                services or f"localhost:{service_port or self.ports['mtls']}",
            ),
            *("--ca", self.data_dir / "ca.pem", "--cert", identity / "cert.pem", "--key", identity / "key.pem"),
            *("--port", str(port), "--health-port", "0", "--ready-file", ready_file),
            folder=self.folder,
            variables=environment(HANDCLASP_EXECUTIONS_LOG__FILE=self.folder / f"{name}.log", **(variables or {})),
        )
        process.wait_for(ready_file)
        return process

    def run(self, *arguments: str | Path) -> Finished:
        """Runs `handclasp ... -o json` as the administrator."""
        return run_command(*arguments, "-o", "json", folder=self.folder, context=self.context_file)
