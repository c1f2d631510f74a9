"""Clients of the services one by one, by certificate and key in files."""

from __future__ import annotations

from pathlib import Path

from handclasp.client.client import HandclaspClient
from handclasp.client.credentials import TlsMaterial
from tests.e2e.processes import Deployment


def administrator(deployment: Deployment, services: str | None = None) -> HandclaspClient:
    """The first administrator, by certificate.

    Args:
        services: the addresses of several certificate services.
    """
    (key,) = deployment.data_dir.glob("identities/admin/*/key.pem")
    return client_of(deployment, key.parent, services=services)


def client_of(
    deployment: Deployment, identity: Path, execution_server: str = "executions", *, services: str | None = None
) -> HandclaspClient:
    """Whoever's `cert.pem` and `key.pem` are in the folder."""
    return client_with(
        deployment,
        (identity / "cert.pem").read_bytes(),
        (identity / "key.pem").read_bytes(),
        services=services,
        executions=f"localhost:{deployment.ports[execution_server]}",
    )


def client_with(
    deployment: Deployment,
    certificate_pem: bytes,
    key_pem: bytes,
    *,
    services: str | None = None,
    executions: str | None = None,
) -> HandclaspClient:
    """Whoever has that certificate and key.

    Args:
        deployment: whose CA is believed, and whose services are called unless others are given.
    """
    ca_pem = (deployment.data_dir / "ca.pem").read_bytes()
    return HandclaspClient(
        tls=TlsMaterial(ca_pem, certificate_pem, key_pem),
        certificates=services or f"localhost:{deployment.ports['mtls']}",
        executions=executions or deployment.executions,
    )
