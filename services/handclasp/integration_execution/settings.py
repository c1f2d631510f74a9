"""Settings of the execution server: see `handclasp.transport.settings` for where they come from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field, field_validator
from pydantic_settings import SettingsConfigDict

from handclasp.client.addresses import check_addresses
from handclasp.integration_execution.conversion_pool import InputLimits
from handclasp.relying_party.decisions import MAX_DECISIONS
from handclasp.relying_party.party import DECISION_TIMEOUT, LEASE_GRACE, LEASE_WAIT
from handclasp.serving.refusal_log import RefusalLimits
from handclasp.transport.logs import LogSettings
from handclasp.transport.ports import WantedPort
from handclasp.transport.server import ServerLimits
from handclasp.transport.settings import Port, Seconds, SectionSettings


class ExecutionSettings(SectionSettings):
    """What can be set: by arguments, `HANDCLASP_EXECUTIONS_*`, or `[executions]` in the settings file."""

    section: ClassVar[str] = "executions"

    model_config = SettingsConfigDict(
        env_prefix="HANDCLASP_EXECUTIONS_", env_nested_delimiter="__", extra="forbid", frozen=True
    )

    host: str = Field("127.0.0.1", description="Address to listen on for gRPC.")
    port: Port = Field(8443, description="Port of the gRPC listener: mutual TLS.")
    health_host: str = Field("127.0.0.1", description="Address to listen on for health over plain HTTP.")
    health_port: Port = Field(8481, description="Port for health over plain HTTP: /livez and /readyz.")

    certificate_service: str = Field(
        "localhost:8444",
        description="The certificate service's mutual TLS listener, as host:port; its certificate must name the host."
        " Several with commas in between, if it runs more than once.",
    )
    ca_file: Path = Field(description="PEM of the CA that the certificate service's server certificate chains to.")
    identity_cert: Path = Field(
        description="PEM of this server's own certificate, and then its intermediates. It is the server certificate "
        "here and the client certificate at the certificate service, so it must allow both serverAuth and clientAuth."
    )
    identity_key: Path = Field(description="PEM of its private key, not encrypted; mode 0600.")

    renew_identity: bool = Field(
        True, description="Renew that certificate at two thirds of its life, with a new key, and replace both files."
    )

    decision_timeout: Seconds = Field(DECISION_TIMEOUT, description="For one question to the certificate service.")
    lease_wait: Seconds = Field(
        LEASE_WAIT, description="How long a call waits for a lease if there is none, before the answer is UNAVAILABLE."
    )
    blocked_after: Seconds = Field(
        2.0,
        description="How long something may hold up the event loop before that is logged, and /livez says 503.",
    )
    lease_grace: Seconds = Field(LEASE_GRACE, description="How long calls in progress go on without a lease.")
    max_decisions: int = Field(
        MAX_DECISIONS,
        ge=0,
        description="How many decisions are remembered, at about half a kilobyte each; 0 has each call ask.",
    )

    integrations_folder: Path | None = Field(None, description="Every *.py in it is loaded at start.")
    disabled_integrations: frozenset[str] = Field(
        frozenset(), description="`name`, or `name@version`, of integrations that cannot be run here."
    )

    inputs: InputLimits = Field(
        default_factory=InputLimits, description="What inputs and outputs of integrations may take up."
    )
    limits: ServerLimits = Field(default_factory=ServerLimits, description="What clients may take up.")
    refusals: RefusalLimits = Field(default_factory=RefusalLimits, description="How refusals are logged.")
    workers: Annotated[int, Field(ge=1, le=64)] = Field(1, description="How many processes serve the port together.")
    grace: Seconds = Field(10.0, description="How long running calls have, when the server is told to stop.")
    ready_file: Path | None = Field(None, description="Written when the server is ready: JSON with its ports.")
    log: LogSettings = Field(default_factory=LogSettings, description="Where the log goes, and its form.")

    @property
    def wanted_ports(self) -> tuple[WantedPort, ...]:
        """All that the server listens on."""
        return (
            WantedPort(self.host, self.port, "port"),
            WantedPort(self.health_host, self.health_port, "health_port"),
        )

    @field_validator("certificate_service")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        if fault := check_addresses(value):
            raise ValueError(fault)
        return value
