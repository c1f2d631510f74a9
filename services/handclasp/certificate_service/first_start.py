"""What the first start makes, and what an administrator who is locked out gets back."""

from __future__ import annotations

import secrets
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from handclasp.certificate_service.certificate_authority import Installation
from handclasp.certificate_service.data_folder import data_folder
from handclasp.certificate_service.domain.access_profiles import ADMINISTRATOR, RELYING_PARTY
from handclasp.certificate_service.identities import CERTIFICATE, KEY, ensure_identity
from handclasp.certificate_service.service import Service, open_service
from handclasp.certificate_service.settings import CertificateServiceSettings
from handclasp.certificate_service.storage.users import find_user
from handclasp.certificate_service.use_cases.caller import Clock, the_service_itself
from handclasp.certificate_service.use_cases.pages import PageRequest, list_hash
from handclasp.certificate_service.x509.issuing import certificate_pem
from handclasp.errors import FailedPrecondition, NotFound
from handclasp.transport.files import write_atomically

_LOG = structlog.stdlib.get_logger(__name__)

FIRST_ADMINISTRATOR = "admin"
EXECUTION_SERVER = "execution-server"
CA_FILE = "ca.pem"
CONTEXT_FILE = "context.toml"
ADDRESSES = ("certificates_tls", "certificates_mtls", "executions")


@dataclass(frozen=True, slots=True)
class Administrator:
    """An administrator who was made, or let in again; the password is known only here, and is to be shown once."""

    user_id: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a start can count on.

    Attributes:
        administrator: exactly if one was made, or recovered, just now.
        ca_fingerprint: SHA-256 of the root's DER, in hexadecimal.
        administrator_identity, execution_identity: folders with `cert.pem` and `key.pem`.
    """

    administrator: Administrator | None
    ca_file: Path
    ca_fingerprint: str
    administrator_identity: Path | None
    execution_identity: Path | None


def write_ca_file(data_dir: Path, installation: Installation) -> Path:
    """Writes the root certificate, for clients to check servers against."""
    path = data_dir / CA_FILE
    write_atomically(path, certificate_pem(installation.root.certificate).encode(), 0o644)
    return path


async def ensure_administrator(service: Service) -> Administrator | None:
    """Makes the first administrator, if there are no users at all; None if there are."""
    caller = the_service_itself()
    if (await service.users.list(caller, PageRequest(1, "", list_hash("first start")))).items:
        return None
    made = Administrator(FIRST_ADMINISTRATOR, secrets.token_urlsafe(18))
    await service.users.create(
        caller,
        made.user_id,
        display_name="First administrator",
        profile_ids=[ADMINISTRATOR],
        password=made.password,
    )
    return made


async def recover_administrator(service: Service, user_id: str) -> Administrator:
    """Gives a user, made if need be, the profile `administrator` and a new password, and makes it active.

    For whoever has the data folder, and so the CA's keys, anyway.
    """
    caller = the_service_itself()
    recovered = Administrator(user_id, secrets.token_urlsafe(18))
    known = await service.database.read(lambda snapshot: find_user(snapshot, user_id))
    if known is None:
        await service.users.create(
            caller, user_id, display_name="", profile_ids=[ADMINISTRATOR], password=recovered.password
        )
    else:
        await service.users.update(caller, user_id, profile_ids=[*known.profile_ids, ADMINISTRATOR])
        await service.users.set_password(caller, user_id, new=recovered.password, old="")
        await service.users.enable(caller, user_id)
    _LOG.warning("administrator_recovered", user=f"users/{user_id}")
    return recovered


async def ensure_execution_identity(service: Service) -> Path:
    """The folder with the execution server's certificate: a client's here, and a server's on its own port.

    Makes its user, too, if need be.

    Raises:
        FailedPrecondition: the user is disabled.
    """
    caller = the_service_itself()
    if await service.database.read(lambda snapshot: find_user(snapshot, EXECUTION_SERVER)) is None:
        await service.users.create(
            caller,
            EXECUTION_SERVER,
            display_name="Integration-execution server",
            profile_ids=[RELYING_PARTY],
            password="",
        )
    return await ensure_identity(service, EXECUTION_SERVER, server_names=service.settings.server_names)


async def prepare(settings: CertificateServiceSettings, clock: Clock, *, execution_server: bool) -> Prepared:
    """Makes what is missing, before the service starts: the CA, the first administrator and their certificate.

    Args:
        execution_server: whether to make an identity for an execution server on this machine, too.
    Raises:
        DataFolderError, InstallationError, SchemaTooNewError, SQLAlchemyError
    """
    with data_folder(settings.data_dir):
        async with open_service(settings, clock) as service:
            made = await ensure_administrator(service)
            return Prepared(
                made,
                ca_file=write_ca_file(settings.data_dir, service.installation),
                ca_fingerprint=service.installation.root_fingerprint,
                administrator_identity=await _identity_of_administrator(service),
                execution_identity=await ensure_execution_identity(service) if execution_server else None,
            )


async def recover(settings: CertificateServiceSettings, clock: Clock, user_id: str) -> Prepared:
    """`recover_administrator`, offline, with a new certificate for a context file.

    Raises:
        DataFolderError: the service is running, or the folder cannot be used.
        InstallationError, SchemaTooNewError, SQLAlchemyError
        InvalidArgument: the user id does not fit.
    """
    with data_folder(settings.data_dir):
        async with open_service(settings, clock) as service:
            recovered = await recover_administrator(service, user_id)
            prepared = Prepared(
                recovered,
                ca_file=write_ca_file(settings.data_dir, service.installation),
                ca_fingerprint=service.installation.root_fingerprint,
                administrator_identity=await ensure_identity(service, user_id),
                execution_identity=None,
            )
    if prepared.administrator_identity is not None:
        addresses = default_addresses(settings) | known_addresses(settings.data_dir)
        write_context_file(settings.data_dir, prepared.administrator_identity, addresses)
    return prepared


def write_context_file(data_dir: Path, identity: Path, addresses: Mapping[str, str]) -> Path:
    """Writes a context file with a certificate in the data folder, and no password.

    Args:
        identity: the folder with the certificate, below the data folder.
        addresses: those of `ADDRESSES` that are known, each `host:port`.
    """
    values = {
        **addresses,
        "ca_file": CA_FILE,
        "certificate": str((identity / CERTIFICATE).relative_to(data_dir)),
        "key": str((identity / KEY).relative_to(data_dir)),
    }
    path = data_dir / CONTEXT_FILE
    write_atomically(path, "".join(f'{key} = "{value}"\n' for key, value in values.items()).encode(), 0o600)
    return path


def default_addresses(settings: CertificateServiceSettings) -> dict[str, str]:
    """The addresses of both listeners as the settings have them."""
    return addresses_of(settings, settings.tls_port, settings.mtls_port)


def addresses_of(settings: CertificateServiceSettings, tls_port: int, mtls_port: int) -> dict[str, str]:
    """The addresses of both listeners, under the first name in the server certificate."""
    name = settings.server_names[0]
    host = f"[{name}]" if ":" in name else name
    return {"certificates_tls": f"{host}:{tls_port}", "certificates_mtls": f"{host}:{mtls_port}"}


def known_addresses(data_dir: Path) -> dict[str, str]:
    """Those in the context file that is there already."""
    path = data_dir / CONTEXT_FILE
    known = tomllib.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return {name: str(known[name]) for name in ADDRESSES if name in known}


async def _identity_of_administrator(service: Service) -> Path | None:
    """None if the first administrator is gone or disabled, and is not to be given a certificate."""
    try:
        return await ensure_identity(service, FIRST_ADMINISTRATOR)
    except (NotFound, FailedPrecondition) as error:
        _LOG.warning("no_certificate_for_first_administrator", reason=error.reason)
        return None
