"""A whole certificate service in the test's process: real TLS on real ports, a real database, a clock one can set.

async with running_installation(folder, database_url) as installation:
    alice = await installation.new_user("regular-user")
    identity = await installation.issue(alice)
    async with installation.client(identity) as client:
        await client.certificates.GetCertificate(...)
"""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import structlog
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from handclasp.accounts.v1 import account_service_pb2, user_pb2
from handclasp.certificate_service.first_start import prepare
from handclasp.certificate_service.main import serve
from handclasp.certificate_service.settings import CertificateServiceSettings
from handclasp.certificates.v1 import certificate_service_pb2
from handclasp.client.client import HandclaspClient
from handclasp.client.credentials import BasicCredentials, TlsMaterial
from handclasp.client.csr import make_key_and_request
from handclasp.serving.clock import lease_clock
from handclasp.transport.lifecycle import StopRequests
from tests.support.leaks import Secrets

LOG = "service.log"

_numbers = itertools.count(1)


class SettableClock:
    """The real time, and an offset that tests set."""

    def __init__(self) -> None:
        self._offset = timedelta()
        self._set_by = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self._offset + self._set_by

    def steady(self) -> float:
        """Seconds on the clock that nobody sets."""
        return lease_clock() + self._offset.total_seconds()

    @contextmanager
    def ahead(self, by: timedelta) -> Iterator[None]:
        """Within, it is later by so much."""
        self._offset += by
        try:
            yield
        finally:
            self._offset -= by

    @contextmanager
    def set_by(self, by: timedelta) -> Iterator[None]:
        """Within, somebody has set the time of day by so much, and no more time has passed."""
        self._set_by += by
        try:
            yield
        finally:
            self._set_by -= by


@dataclass(frozen=True)
class Identity:
    """A certificate with its key, and its name on file."""

    name: str
    certificate_pem: bytes
    key_pem: bytes = field(repr=False)

    @property
    def leaf(self) -> x509.Certificate:
        return x509.load_pem_x509_certificates(self.certificate_pem)[0]

    @property
    def der(self) -> bytes:
        return self.leaf.public_bytes(Encoding.DER)

    @property
    def key(self) -> Any:
        return load_pem_private_key(self.key_pem, None)


@dataclass(frozen=True)
class Installation:
    """A service that runs. `admin` is a client of its first administrator, by certificate."""

    settings: CertificateServiceSettings
    clock: SettableClock
    ports: Mapping[str, Any]
    ca_pem: bytes
    admin_identity: Identity
    admin_password: str = field(repr=False)
    relying_party_identity: Identity
    admin: HandclaspClient
    relying_party: HandclaspClient
    secrets: Secrets

    @property
    def log(self) -> Path:
        """What the service logs."""
        return self.settings.data_dir.parent / LOG

    @property
    def tls_address(self) -> str:
        return f"localhost:{self.ports['tls_port']}"

    @property
    def mtls_address(self) -> str:
        return f"localhost:{self.ports['mtls_port']}"

    def client(
        self, identity: Identity | None = None, *, user: str | None = None, password: str | None = None
    ) -> HandclaspClient:
        """A client by certificate (mutual TLS), by password (one-way TLS), by both, or by neither. Close it."""
        basic = None if user is None or password is None else BasicCredentials(user, password)
        return open_client(self.ca_pem, self.ports, identity, basic)

    async def new_user(
        self, *profiles: str, password: str = "", name: str | None = None, grants: Mapping[str, str] | None = None
    ) -> str:
        """A fresh user's id, with these access profiles, and one of its own for `grants` (permission: pattern)."""
        number = next(_numbers)
        user_id = name or f"user-{number}"
        if password:
            self.secrets.add_password(password, user_id)
        held = list(profiles)
        if grants:
            held.append(await self.new_profile(grants))
        await self.admin.accounts.CreateUser(
            account_service_pb2.CreateUserRequest(
                user_id=user_id,
                user=user_pb2.User(access_profiles=[f"accessProfiles/{profile}" for profile in held]),
                password=password,
            )
        )
        return user_id

    async def new_profile(self, grants: Mapping[str, str]) -> str:
        """A fresh access profile's id."""
        profile_id = f"profile-{next(_numbers)}"
        await self.admin.accounts.CreateAccessProfile(
            account_service_pb2.CreateAccessProfileRequest(
                access_profile_id=profile_id,
                access_profile={  # type: ignore[arg-type]  # protobuf takes a dict for a message
                    "grants": [
                        {"permission": f"PERMISSION_{permission}", "resource_pattern": pattern}
                        for permission, pattern in grants.items()
                    ]
                },
            )
        )
        return profile_id

    async def issue(self, user_id: str, **fields: Any) -> Identity:
        """A certificate for a user, issued by the administrator from a CSR."""
        made = make_key_and_request(user_id)
        response = await self.admin.certificates.IssueCertificate(
            certificate_service_pb2.IssueCertificateRequest(
                user=f"users/{user_id}", csr_pem=made.csr_pem.decode(), **fields
            )
        )
        self.secrets.add_key(made.key_pem, user_id)
        return Identity(response.certificate.name, response.certificate.pem.encode(), made.key_pem)


def open_client(
    ca_pem: bytes, ports: Mapping[str, Any], identity: Identity | None, basic: BasicCredentials | None
) -> HandclaspClient:
    tls = TlsMaterial(
        ca_pem,
        None if identity is None else identity.certificate_pem,
        None if identity is None else identity.key_pem,
    )
    port = ports["tls_port"] if identity is None else ports["mtls_port"]
    return HandclaspClient(tls=tls, basic=basic, certificates=f"localhost:{port}")


@asynccontextmanager
async def running_installation(folder: Path, database_url: str, **settings: Any) -> AsyncIterator[Installation]:
    """A service on free ports, first started if the database is empty.

    Its log goes to a file, in which none of the secrets that it was given may stand at the end.

    Args:
        folder: where the data folder goes; the same one again is a restart.
        settings: anything else of `CertificateServiceSettings`.
    """
    ready_file = folder / "ready.json"
    configured = CertificateServiceSettings(
        **{
            "data_dir": folder / "data",
            "database_url": database_url,
            "tls_port": 0,
            "mtls_port": 0,
            "health_port": 0,
            "ready_file": ready_file,
            "grace": 0.5,
            **settings,
        }
    )
    secrets = Secrets()
    log = folder / LOG
    with logging_to(log):
        async with _serving(configured, secrets) as running:
            yield running
    leaks = secrets.leaks_in(log)
    assert not leaks, "\n".join(leaks)


@contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Within, what is logged by structlog goes to a file."""
    with path.open("a", encoding="utf-8") as file:
        structlog.configure(logger_factory=structlog.WriteLoggerFactory(file=file))
        try:
            yield
        finally:
            structlog.reset_defaults()


@asynccontextmanager
async def _serving(configured: CertificateServiceSettings, secrets: Secrets) -> AsyncIterator[Installation]:
    ready_file = configured.ready_file
    assert ready_file is not None
    clock = SettableClock()
    prepared = await prepare(configured, clock, execution_server=True)
    assert prepared.administrator_identity is not None
    assert prepared.execution_identity is not None
    admin_identity = read_identity(prepared.administrator_identity)
    relying_party_identity = read_identity(prepared.execution_identity)
    for identity in (admin_identity, relying_party_identity):
        secrets.add_key(identity.key_pem, "the installation's own")
    if prepared.administrator is not None:
        secrets.add_password(prepared.administrator.password, "admin")
    stop = StopRequests()
    serving = asyncio.create_task(serve(configured, stop, clock, steady=clock.steady))
    try:
        while not ready_file.exists():
            await asyncio.sleep(0.01)
            if serving.done():
                serving.result()
        ports = json.loads(ready_file.read_text())
        ca_pem = prepared.ca_file.read_bytes()
        async with (
            open_client(ca_pem, ports, admin_identity, None) as admin,
            open_client(ca_pem, ports, relying_party_identity, None) as relying_party,
        ):
            yield Installation(
                configured,
                clock,
                ports,
                ca_pem,
                admin_identity,
                prepared.administrator.password if prepared.administrator else "",
                relying_party_identity,
                admin,
                relying_party,
                secrets,
            )
    finally:
        stop.request()
        await serving


def read_identity(folder: Path) -> Identity:
    """An identity from the data folder; its name on file is not known there."""
    return Identity("", (folder / "cert.pem").read_bytes(), (folder / "key.pem").read_bytes())


def share_keys(data_dir: Path, other: Path) -> None:
    """Makes a data folder for another replica, which signs under the same CA as the first one.

    Those that join (`handclasp enroll --replica`) have a CA of their own; for most tests that makes no difference.
    """
    other.mkdir(mode=0o700)
    shutil.copytree(data_dir / "keys", other / "keys")
