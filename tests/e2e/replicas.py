"""Several certificate services on one PostgreSQL, as processes that can be killed, stopped, and started again."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from tests.e2e.processes import Deployment, Process, environment, free_port


@dataclass
class Replicas:
    """The processes, each with ports and a data folder of its own; the keys are the same.

    Args:
        database_url: of an empty PostgreSQL database.
    """

    folder: Path
    database_url: str
    ports: list[dict[str, int]] = field(default_factory=list)
    processes: list[Process] = field(default_factory=list)

    @property
    def addresses(self) -> str:
        """All mutual TLS listeners."""
        return ",".join(f"localhost:{ports['mtls']}" for ports in self.ports)

    @property
    def deployment(self) -> Deployment:
        """The first one, and whatever asks it alone."""
        return Deployment(self.folder, ports={**self.ports[0], "executions": 0}, data_name="data-0")

    def add(self) -> Process:
        """One more."""
        number = len(self.ports)
        if number:
            keys = self.folder / f"data-{number}" / "keys"
            keys.parent.mkdir(mode=0o700)
            shutil.copytree(self.folder / "data-0" / "keys", keys)
        self.ports.append({"tls": free_port(), "mtls": free_port()})
        self.processes.append(self._started(number))
        return self.processes[number]

    def restart(self, number: int) -> None:
        """Starts one that has ended, on the same ports."""
        self.processes[number] = self._started(number)

    def number_at(self, address: str) -> int:
        """Which one listens there."""
        return [f"localhost:{ports['mtls']}" for ports in self.ports].index(address)

    def kill_all(self) -> None:
        for process in self.processes:
            process.kill()

    def _started(self, number: int) -> Process:
        ready_file = self.folder / f"certificates-{number}-ready.json"
        ready_file.unlink(missing_ok=True)
        ports = self.ports[number]
        process = Process(
            f"certificates-{number}",
            *("serve", "certificates", "--data-dir", self.folder / f"data-{number}", "--ready-file", ready_file),
            *("--tls-port", str(ports["tls"]), "--mtls-port", str(ports["mtls"]), "--health-port", "0"),
            folder=self.folder,
            variables=environment(
                HANDCLASP_CERTIFICATES_DATABASE_URL=self.database_url,
                HANDCLASP_CERTIFICATES_LOG__FILE=self.folder / f"certificates-{number}.log",
            ),
        )
        process.wait_for(ready_file)
        return process
