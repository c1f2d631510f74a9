"""Runs a PostgreSQL for as long as a test run lasts: started by `postgres.py`, in a process of its own.

python postgres_keeper.py BINARIES FOLDER OWNER

Writes FOLDER/outcome.json once the server answers; if it cannot be started, exits with a status that is not 0 and the
reason on stderr. On SIGTERM it ends the server, on SIGUSR1 it restarts it; when the process OWNER is gone, even if that
was killed, it removes FOLDER too, since OWNER cannot.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import TypedDict

import psutil
import psycopg

POLL_SECONDS = 0.2
START_SECONDS = 45.0
# Durable as in real life (fsync stays on), but small; room for the connection pools of two test processes.
SETTINGS = {
    "listen_addresses": "",
    "max_connections": "200",
    "shared_buffers": "32MB",
    "max_wal_size": "128MB",
    "autovacuum": "off",
    "timezone": "UTC",
    "log_min_messages": "warning",
}
# Letters and punctuation sort as they do in most real installations, not by code point. Whoever relies on an order of
# text has to say so, and finds out here.
COLLATIONS = (["--locale=C", "--locale-provider=icu", "--icu-locale=en"], ["--locale=C"])


class Account(TypedDict, total=False):
    """Arguments of `subprocess.run` that name whom to run as."""

    user: int
    group: int
    extra_groups: list[int]


class Keeper:
    """Initializes, starts and ends one server.

    Args:
        binaries: the folder of `initdb` and `postgres`.
        folder: the run's folder.
    """

    def __init__(self, binaries: Path, folder: Path) -> None:
        self.binaries = binaries
        self.folder = folder
        # The server's own folder, with a short name: the Unix socket is in it.
        self.sockets = folder / "s"
        self.data = self.sockets / "data"
        self.account: Account = {}
        self.server: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns once the server answers.

        Raises:
            OSError, subprocess.SubprocessError, RuntimeError: it cannot be started.
        """
        self.sockets.mkdir(mode=0o700)
        if os.geteuid() == 0:
            self._become_someone_else()
        self._initialize()
        self._run()

    def restart(self) -> None:
        """Ends the server as an administrator would, who waits for nobody, and starts it again."""
        if self.server is not None:
            self.server.send_signal(signal.SIGINT)
            self.server.wait(START_SECONDS)
        self._run()

    def _run(self) -> None:
        options = [option for name, value in SETTINGS.items() for option in ("-c", f"{name}={value}")]
        self.server = subprocess.Popen(
            [self.binaries / "postgres", "-D", self.data, "-k", self.sockets, *options], cwd="/", **self.account
        )
        give_up = time.monotonic() + START_SECONDS
        while True:
            try:
                psycopg.connect(host=str(self.sockets), user="postgres", dbname="postgres").close()
            except psycopg.OperationalError:
                if self.server.poll() is not None or time.monotonic() > give_up:
                    raise RuntimeError("the server does not answer") from None
                time.sleep(0.02)
            else:
                return

    def end(self) -> None:
        """Ends the server at once: what it holds is thrown away."""
        if self.server is not None and self.server.poll() is None:
            self.server.send_signal(signal.SIGQUIT)
            try:
                self.server.wait(10)
            except subprocess.TimeoutExpired:
                self.server.kill()
                self.server.wait()
        shutil.rmtree(self.sockets, ignore_errors=True)

    def _become_someone_else(self) -> None:
        # PostgreSQL refuses to run as root. Its own account is there if Debian's package is; `nobody` always is.
        names = {entry.pw_name for entry in pwd.getpwall()}
        entry = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
        self.account = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
        self.folder.chmod(0o711)
        os.chown(self.sockets, entry.pw_uid, entry.pw_gid)
        if not self._runs():
            # In a folder that only root may enter, such as root's home: a copy that the account can read. A wheel has
            # shared libraries beside its package, PACKAGE.libs, and finds them by the relative path.
            installation = self.binaries.parent
            package = installation.parent
            copy = self.folder / "copy"
            shutil.copytree(installation, copy / package.name / installation.name, symlinks=True)
            libraries = package.with_name(f"{package.name}.libs")
            if libraries.is_dir():
                shutil.copytree(libraries, copy / libraries.name, symlinks=True)
            self.binaries = copy / package.name / installation.name / self.binaries.name

    def _runs(self) -> bool:
        try:
            command = [str(self.binaries / "postgres"), "--version"]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd="/", **self.account)
        except PermissionError:
            return False
        return True

    def _initialize(self) -> None:
        options = ["-D", str(self.data), "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--no-sync"]
        for collation in COLLATIONS:
            command = [str(self.binaries / "initdb"), *options, *collation]
            made = subprocess.run(command, capture_output=True, text=True, cwd="/", check=False, **self.account)
            if made.returncode == 0:
                return
        raise RuntimeError(f"initdb failed: {made.stderr.strip()}")


def main() -> int:
    binaries, folder, owner = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    running, restarts = True, 0

    def restart(_signal: int, _frame: FrameType | None) -> None:
        nonlocal restarts
        restarts += 1

    def stop(_signal: int, _frame: FrameType | None) -> None:
        nonlocal running
        running = False

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGUSR1, restart)
    # The process object knows when it was started, so that another one with the same id is not taken for it.
    run = psutil.Process(owner)
    keeper = Keeper(binaries, folder)
    try:
        try:
            keeper.start()
        except (OSError, subprocess.SubprocessError, RuntimeError) as error:
            print(error, file=sys.stderr)
            return 1
        publish(folder, {"socket_folder": str(keeper.sockets)})
        while running and run.is_running() and run.status() != psutil.STATUS_ZOMBIE:
            time.sleep(POLL_SECONDS)
            if restarts:
                restarts -= 1
                keeper.restart()
    finally:
        keeper.end()
    if running:
        shutil.rmtree(folder)
    return 0


def publish(folder: Path, outcome: dict[str, str]) -> None:
    """Writes the outcome so that nobody reads half of it."""
    draft = folder / "outcome.draft"
    draft.write_text(json.dumps(outcome))
    draft.rename(folder / "outcome.json")


if __name__ == "__main__":
    sys.exit(main())
