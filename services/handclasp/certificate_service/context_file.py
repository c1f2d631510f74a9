"""The context file in the data folder: where the services are, and which certificate the first administrator has."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path

from handclasp.certificate_service.data_folder import CA_FILE, CONTEXT_FILE
from handclasp.certificate_service.identities import CERTIFICATE, KEY
from handclasp.certificate_service.settings import CertificateServiceSettings
from handclasp.serving.files import write_atomically

ADDRESSES = ("certificates_tls", "certificates_mtls", "executions")


class ContextFileError(Exception):
    """It cannot be read or written; the message says why, and what to do."""


def write_context_file(data_dir: Path, identity: Path, addresses: Mapping[str, str]) -> Path:
    """Writes a context file with a certificate in the data folder, and no password.

    Args:
        identity: the folder with the certificate, below the data folder.
        addresses: those of `ADDRESSES` that are known, each `host:port`.

    Raises:
        ContextFileError
    """
    values = {
        **addresses,
        "ca_file": CA_FILE,
        "certificate": str((identity / CERTIFICATE).relative_to(data_dir)),
        "key": str((identity / KEY).relative_to(data_dir)),
    }
    path = data_dir / CONTEXT_FILE
    try:
        write_atomically(path, "".join(f'{key} = "{value}"\n' for key, value in values.items()).encode(), 0o600)
    except OSError as error:
        raise ContextFileError(f"{path} cannot be written: {error.strerror}; check its folder, and the disk") from error
    return path


def addresses_of(settings: CertificateServiceSettings, tls_port: int, mtls_port: int) -> dict[str, str]:
    """The addresses of both listeners, under the first name in the server certificate."""
    name = settings.server_names[0]
    host = f"[{name}]" if ":" in name else name
    return {"certificates_tls": f"{host}:{tls_port}", "certificates_mtls": f"{host}:{mtls_port}"}


def known_addresses(data_dir: Path) -> dict[str, str]:
    """Those in the context file that is there already, to which somebody may have added an execution server's.

    Raises:
        ContextFileError
    """
    path = data_dir / CONTEXT_FILE
    try:
        known = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise _unreadable(path, str(error.strerror)) from error
    except ValueError as error:
        # What is no TOML, and what is no UTF-8.
        raise _unreadable(path, str(error)) from error
    return {name: str(known[name]) for name in ADDRESSES if name in known}


def _unreadable(path: Path, fault: str) -> ContextFileError:
    return ContextFileError(
        f"{path} cannot be read: {fault}; mend it, have it belong to the service's user, or remove it: the next start"
        " writes another one"
    )
