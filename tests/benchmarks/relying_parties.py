"""Relying parties of the benchmark's own, with the library that anybody's servers use."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

from handclasp.relying_party import Options, RelyingParty
from handclasp.serving.files import write_secret
from handclasp.transport.logs import LogSettings, set_up_logging
from tests.benchmarks.workload import Cast


@dataclass(frozen=True, slots=True)
class PartyFiles:
    """The identity that they all share, in files of these names in a folder, as the library takes it."""

    folder: Path

    def write(self, cast: Cast) -> None:
        self.folder.mkdir()
        (self.folder / "ca.pem").write_bytes(cast.ca_pem)
        (self.folder / "cert.pem").write_bytes(cast.relying_party.certificate_pem)
        write_secret(self.folder / "key.pem", cast.relying_party.key_pem)


@dataclass(frozen=True, slots=True)
class PartyPlace:
    """What it takes to make one.

    Attributes:
        address: of the certificate service's mutual TLS listener.
    """

    files: PartyFiles
    address: str

    def relying_party(self) -> RelyingParty:
        """Not entered yet. Has this process log nothing but errors: standard output is for the tables."""
        set_up_logging(LogSettings(level="ERROR"))
        folder = self.files.folder
        return RelyingParty(
            self.address,
            ca_file=folder / "ca.pem",
            certificate=folder / "cert.pem",
            key=folder / "key.pem",
            options=Options(renew_identity=False),
        )
