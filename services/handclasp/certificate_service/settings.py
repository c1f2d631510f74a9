"""Settings of the certificate service: see `handclasp.transport.settings` for where they come from."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, ClassVar, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import SettingsConfigDict
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from handclasp.certificate_service.data_folder import DATABASE
from handclasp.certificate_service.domain.durations import CENTURY
from handclasp.certificate_service.passwords.throttle import ThrottleLimits
from handclasp.certificate_service.use_cases.denial_log import DenialLimits
from handclasp.certificate_service.use_cases.refusal_records import RefusalRecordLimits
from handclasp.certificate_service.x509.issuing import parse_server_name
from handclasp.client.in_force import LONGEST_LEASE
from handclasp.errors import InvalidArgument
from handclasp.serving.refusal_log import RefusalLimits
from handclasp.transport.logs import LogSettings
from handclasp.transport.ports import WantedPort
from handclasp.transport.server import ServerLimits
from handclasp.transport.settings import Port, Seconds, SectionSettings

# A trust domain name of SPIFFE-ID, section 2.1, and no longer than a DNS name.
_TRUST_DOMAIN = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,251}[a-z0-9])?", re.ASCII)


@dataclass(frozen=True, slots=True)
class CertificateServiceLimits(ServerLimits):
    """Nothing that the service takes is as long as an input of an integration.

    Args:
        anonymous_idle: `connection_idle` of the listener that asks for no certificate, where anybody can connect.
    """

    anonymous_idle: Annotated[float, Field(gt=0, le=86400, allow_inf_nan=False)] = 10.0
    request_bytes: Annotated[int, Field(ge=1, le=2**31 - 1)] = 64 * 1024 * 1024
    max_request_length: Annotated[int, Field(ge=128 * 1024, le=2**31 - 1)] = 256 * 1024

    def of_anonymous(self) -> CertificateServiceLimits:
        """Those of the listener that asks for no certificate."""
        return replace(self, connection_idle=min(self.anonymous_idle, self.connection_idle))


class CertificateServiceSettings(SectionSettings):
    """What can be set. Ports of 0 mean any free port."""

    section: ClassVar[str] = "certificates"
    model_config = SettingsConfigDict(
        env_prefix="HANDCLASP_CERTIFICATES_", env_nested_delimiter="__", extra="forbid", frozen=True
    )

    data_dir: Path = Field(
        Path("handclasp-data"), description="Folder (0700) for keys, the embedded database and the first context file."
    )
    database_url: SecretStr | None = Field(
        None,
        description="postgresql+psycopg://USER@HOST/NAME, or sqlite+aiosqlite:///FILE; SQLite in the data folder if"
        " unset.",
    )
    database_notifications: bool = Field(
        True,
        description="Whether processes that serve one PostgreSQL hear of changes by its notifications. Without, as"
        " behind a pooler that does not pass them on, they read them with each renewal of their lease.",
    )
    key_passphrase: SecretStr | None = Field(None, description="Encrypts the CA keys, from the first start on.")
    trust_domain: str = Field(
        "handclasp.local", description="Stands in every certificate; fixed from the first start on."
    )

    host: str = Field("127.0.0.1", description="Address to listen on for gRPC.")
    tls_port: Port = Field(8442, description="Port of the one-way TLS listener: for people with passwords.")
    mtls_port: Port = Field(8444, description="Port of the mutual TLS listener: for certificate holders.")
    health_host: str = Field("127.0.0.1", description="Address to listen on for health over plain HTTP.")
    health_port: Port = Field(8480, description="Port for health over plain HTTP: /livez and /readyz.")
    server_names: tuple[str, ...] = Field(
        ("localhost", "127.0.0.1", "::1"),
        min_length=1,
        description="DNS names and IP addresses in the server certificate.",
    )
    server_certificate_lifetime: timedelta = Field(
        timedelta(days=30),
        gt=timedelta(minutes=5),
        le=CENTURY,
        description="How long the service's own server certificate is valid; it is renewed at two thirds of that.",
    )

    maximum_lifetime: timedelta = Field(
        timedelta(days=90),
        ge=timedelta(minutes=1),
        le=CENTURY,
        description="The longest that an issued certificate may be valid.",
    )
    maximum_enrollment_token_lifetime: timedelta = Field(
        timedelta(hours=24),
        ge=timedelta(minutes=1),
        le=CENTURY,
        description="The longest that an enrollment token may be good. An hour, or this if it is less, is the default.",
    )
    protect_administrators: bool = Field(
        True,
        description="Nobody gives credentials or profiles to a user who holds an administrative permission that they"
        " lack.",
    )
    minimum_password_length: Annotated[int, Field(ge=8, le=128)] = Field(
        12, description="How many characters a new password has at least."
    )
    password_checks: Annotated[int, Field(ge=1, le=64)] = Field(
        2, description="How many passwords are hashed at once; each takes 19 MiB."
    )
    password_checks_waiting: Annotated[int, Field(ge=1)] = Field(
        16, description="How many password checks may wait at once for one address; for a relying party, 8 times that."
    )
    password_checks_waiting_in_all: Annotated[int, Field(ge=1)] = Field(
        1000,
        description="How many may wait at once in all. Of more, those of whoever sent wrong ones are refused.",
    )
    remembered_peers: Annotated[int, Field(ge=0)] = Field(
        10_000,
        description="On SQLite: how many peers' certificates and users are kept in memory, until anything changes.",
    )
    throttle: ThrottleLimits = Field(
        default_factory=ThrottleLimits, description="How guessing of passwords and tokens is slowed."
    )
    denials: DenialLimits = Field(default_factory=DenialLimits, description="How denials are kept.")
    refusal_records: RefusalRecordLimits = Field(
        default_factory=RefusalRecordLimits, description="How other refusals are kept, for `handclasp explain`."
    )
    lease: Annotated[float, Field(ge=0.1, le=LONGEST_LEASE, allow_inf_nan=False)] = Field(
        2.0,
        description="How many seconds a relying party may act on what it was told. Taking away waits as long for one"
        " that does not answer.",
    )
    ping_interval: Annotated[float, Field(ge=0.02, le=20, allow_inf_nan=False)] = Field(
        0.5, description="How often, in seconds, relying parties renew their lease: at most a third of it."
    )
    maximum_watchers: Annotated[int, Field(ge=1)] = Field(
        500,
        description="How many processes of relying parties may watch at once, beside the calls that"
        " limits.maximum_concurrent_rpcs allows.",
    )
    maximum_watchers_per_user: Annotated[int, Field(ge=1)] = Field(
        100,
        description="How many of those may be of one user: so that one relying party leaves room for others.",
    )
    request_retention: timedelta = Field(
        timedelta(days=7), ge=timedelta(0), le=CENTURY, description="How long a request_id is remembered."
    )

    limits: CertificateServiceLimits = Field(
        default_factory=CertificateServiceLimits, description="What clients may take up, each listener."
    )
    refusals: RefusalLimits = Field(default_factory=RefusalLimits, description="How refusals are logged.")
    workers: Annotated[int, Field(ge=1, le=64)] = Field(
        1, description="How many processes serve the ports together; more than one needs PostgreSQL."
    )
    grace: Seconds = Field(10.0, description="How long running calls have, when the service is told to stop.")
    ready_file: Path | None = Field(None, description="Written when the service is ready: JSON with its ports.")
    log: LogSettings = Field(default_factory=LogSettings, description="Where the log goes, and its form.")

    @field_validator("trust_domain")
    @classmethod
    def _is_trust_domain(cls, value: str) -> str:
        if _TRUST_DOMAIN.fullmatch(value) is None:
            raise ValueError("must be a name of lower-case letters, digits, '.', '-' and '_', such as example.org")
        return value

    @field_validator("server_names")
    @classmethod
    def _are_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            try:
                parse_server_name(name)
            except InvalidArgument as error:
                raise ValueError(error.message.removeprefix("server_names: ")) from None
        return value

    @field_validator("database_url")
    @classmethod
    def _is_supported(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        try:
            url = make_url(value.get_secret_value())
        except ArgumentError:
            raise ValueError("must be a database URL, such as postgresql+psycopg://USER@HOST/NAME") from None
        if url.drivername not in {"postgresql+psycopg", "sqlite+aiosqlite"}:
            raise ValueError("must begin with postgresql+psycopg:// or sqlite+aiosqlite://")
        if url.drivername == "postgresql+psycopg" and find_spec("psycopg") is None:
            raise ValueError("needs psycopg, which is not installed: `pip install handclasp[postgresql]`")
        return value

    @model_validator(mode="after")
    def _ports_differ(self) -> Self:
        if self.tls_port == self.mtls_port != 0:
            raise ValueError(f"tls_port and mtls_port are both {self.tls_port}; each needs one of its own")
        return self

    @model_validator(mode="after")
    def _leases_can_be_renewed(self) -> Self:
        if self.ping_interval > self.lease / 3:
            raise ValueError(f"ping_interval must be at most a third of lease, which is {self.lease:g} s")
        return self

    @model_validator(mode="after")
    def _workers_share_a_database(self) -> Self:
        if self.workers > 1 and make_url(self.url()).get_backend_name() == "sqlite":
            raise ValueError(
                "several workers need PostgreSQL, since SQLite is for one process; set database_url to"
                " postgresql+psycopg://..., or workers to 1"
            )
        return self

    @property
    def sqlite_file(self) -> Path | None:
        """The file of a SQLite database; None if it is PostgreSQL, or is in memory only."""
        url = make_url(self.url())
        return Path(url.database) if url.get_backend_name() == "sqlite" and url.database else None

    @property
    def wanted_ports(self) -> tuple[WantedPort, ...]:
        """All that the service listens on."""
        return (
            WantedPort(self.host, self.tls_port, "tls_port"),
            WantedPort(self.host, self.mtls_port, "mtls_port"),
            WantedPort(self.health_host, self.health_port, "health_port"),
        )

    def url(self) -> str:
        """The database's URL; may hold a password."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        return f"sqlite+aiosqlite:///{(self.data_dir / DATABASE).absolute()}"

    def passphrase(self) -> bytes | None:
        """The passphrase of the CA keys."""
        return None if self.key_passphrase is None else self.key_passphrase.get_secret_value().encode()
