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
    ca_pem = (deployment.data_dir / "ca.pem").read_bytes()
    return HandclaspClient(
        tls=TlsMaterial(ca_pem, (identity / "cert.pem").read_bytes(), (identity / "key.pem").read_bytes()),
        certificates=services or f"localhost:{deployment.ports['mtls']}",
        executions=f"localhost:{deployment.ports[execution_server]}",
    )
