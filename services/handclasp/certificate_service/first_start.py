"""What the first start makes, and what an administrator who is locked out gets back."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import structlog
from sqlalchemy import make_url

from handclasp.certificate_service.certificate_authority import Installation
from handclasp.certificate_service.change_log import CHANGES
from handclasp.certificate_service.context_file import addresses_of, known_addresses, write_context_file
from handclasp.certificate_service.data_folder import CA_FILE, DATABASE, KEYS, data_folder
from handclasp.certificate_service.domain.access_profiles import ADMINISTRATOR, RELYING_PARTY
from handclasp.certificate_service.domain.users import UserState
from handclasp.certificate_service.identities import ensure_identity
from handclasp.certificate_service.service import Service, open_service
from handclasp.certificate_service.settings import CertificateServiceSettings
from handclasp.certificate_service.storage.database import open_database
from handclasp.certificate_service.storage.installation import has_installation
from handclasp.certificate_service.storage.users import find_user, list_administrators
from handclasp.certificate_service.use_cases.caller import Clock, the_service_itself
from handclasp.certificate_service.use_cases.pages import PageRequest, list_hash
from handclasp.certificate_service.x509.issuing import certificate_pem
from handclasp.errors import FailedPrecondition, NotFound
from handclasp.serving.files import write_atomically

_LOG = structlog.stdlib.get_logger(__name__)

FIRST_ADMINISTRATOR = "admin"
EXECUTION_SERVER = "execution-server"
_ADMINISTRATORS_NAMED = 10


class RecoveryError(Exception):
    """There is nothing to recover, or nobody of that name; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Administrator:
    """An administrator who was made, or let in again; the password is known only here, and is to be shown once.

    Attributes:
        password: empty if none was set.
    """

    user_id: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a start can count on.

    Attributes:
        administrator: exactly if one was made, or recovered, just now.
        ca_fingerprint: SHA-256 of the root's DER, in hexadecimal.
        administrator_identity, execution_identity: folders with `cert.pem` and `key.pem`; None if the user is
            disabled, or gone, or was not asked for.
    """

    administrator: Administrator | None
    ca_file: Path
    ca_fingerprint: str
    administrator_identity: Path | None
    execution_identity: Path | None


def write_ca_file(data_dir: Path, installation: Installation) -> Path:
    """Writes the root certificate, for clients to check servers against."""
    path = data_dir / CA_FILE
    write_atomically(path, certificate_pem(installation.root_certificate).encode(), 0o644)
    return path


async def ensure_administrator(service: Service, *, with_password: bool) -> Administrator | None:
    """Makes the first administrator, if there are no users at all; None if there are."""
    caller = the_service_itself()
    if (await service.users.list(caller, PageRequest(1, "", list_hash("first start")))).items:
        return None
    made = Administrator(FIRST_ADMINISTRATOR, secrets.token_urlsafe(18) if with_password else "")
    await service.users.create(
        caller,
        made.user_id,
        display_name="First administrator",
        profile_ids=[ADMINISTRATOR],
        password=made.password,
    )
    return made


async def recover_administrator(service: Service, user_id: str) -> Administrator:
    """Gives a user the profile `administrator` and a new password, and makes it active.

    For whoever has the data folder, and so the CA's keys, anyway. The first administrator is made if it is gone and
    nobody else has the profile.

    Raises:
        RecoveryError: there is no such user.
    """
    caller = the_service_itself()
    recovered = Administrator(user_id, secrets.token_urlsafe(18))
    known = await service.database.read(lambda snapshot: find_user(snapshot, user_id))
    if known is None:
        others = await service.database.read(partial(list_administrators, limit=_ADMINISTRATORS_NAMED))
        if others:
            raise RecoveryError(
                f"there is no user {user_id}; users with the profile administrator: {', '.join(others)}; name one of"
                " them with --user"
            )
        if user_id != FIRST_ADMINISTRATOR:
            raise RecoveryError(
                f"there is no user {user_id}, and no administrator at all; without --user {FIRST_ADMINISTRATOR} is made"
            )
        await service.users.create(
            caller, user_id, display_name="", profile_ids=[ADMINISTRATOR], password=recovered.password
        )
    else:
        await service.users.update(caller, user_id, profile_ids=[*known.profile_ids, ADMINISTRATOR])
        await service.users.set_password(caller, user_id, new=recovered.password, old="")
        await service.users.enable(caller, user_id)
    CHANGES.warning("administrator_recovered", user=f"users/{user_id}")
    return recovered


async def ensure_execution_identity(service: Service) -> Path | None:
    """The folder with the execution server's certificate: a client's here, and a server's on its own port.

    Makes its user, too, if need be. None if that one is disabled, so that nothing would be allowed to the server.
    """
    caller = the_service_itself()
    known = await service.database.read(lambda snapshot: find_user(snapshot, EXECUTION_SERVER))
    if known is not None and known.state is UserState.DISABLED:
        return None
    if known is None:
        await service.users.create(
            caller,
            EXECUTION_SERVER,
            display_name="Integration-execution server",
            profile_ids=[RELYING_PARTY],
            password="",
        )
    return await ensure_identity(service, EXECUTION_SERVER, server_names=service.settings.server_names)


def _no_check() -> None:
    """Where nobody is going to listen."""


async def prepare(
    settings: CertificateServiceSettings,
    clock: Clock,
    *,
    execution_server: bool,
    with_password: bool = True,
    check: Callable[[], None] = _no_check,
) -> Prepared:
    """Makes what is missing, before the service starts: the CA, the first administrator and their certificate.

    Args:
        execution_server: whether to make an identity for an execution server on this machine, too.
        with_password: whether a first administrator gets a password.
        check: called before anything is made, to raise if the service could not start anyway; but not before it is
            known that no other process has the folder, which says more.
    Raises:
        DataFolderError, InstallationError, SchemaTooNewError, SQLAlchemyError, and what `check` raises
    """
    if not settings.data_dir.exists():
        check()
    with data_folder(settings.data_dir):
        check()
        async with open_service(settings, clock) as service:
            made = await ensure_administrator(service, with_password=with_password)
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
        RecoveryError: there is no installation, of which nothing is made then, or no such user.
        DataFolderError: the service is running, or the folder cannot be used.
        ContextFileError: the context file that is there cannot be read.
        InstallationError, SchemaTooNewError, SQLAlchemyError
    """
    _require_data_folder(settings.data_dir)
    with data_folder(settings.data_dir):
        await _require_installation(settings)
        # Before there is a new password, which is shown at the end.
        known = known_addresses(settings.data_dir)
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
        addresses = addresses_of(settings, settings.tls_port, settings.mtls_port) | known
        write_context_file(settings.data_dir, prepared.administrator_identity, addresses)
    return prepared


def _require_data_folder(data_dir: Path) -> None:
    # Of a folder that this process cannot look into, `data_folder` says so.
    if not os.access(data_dir, os.X_OK) or any((data_dir / name).exists() for name in (KEYS, DATABASE)):
        return
    raise RecoveryError(
        f"{data_dir} is no data folder of a certificate service: there is neither {KEYS}/ nor {DATABASE} in it; name"
        " the folder that the service has as data_dir"
    )


async def _require_installation(settings: CertificateServiceSettings) -> None:
    url = make_url(settings.url())
    # SQLite would make the file.
    if url.get_backend_name() != "sqlite" or os.path.exists(url.database or ""):  # noqa: ASYNC240 - nothing else runs
        database = open_database(settings.url())
        try:
            if await has_installation(database):
                return
        finally:
            await database.close()
    raise RecoveryError(
        f"{settings.data_dir} has no database of a certificate service; if it is in PostgreSQL, set"
        " HANDCLASP_CERTIFICATES_DATABASE_URL, or go where handclasp.toml is"
    )


async def _identity_of_administrator(service: Service) -> Path | None:
    """None if the first administrator is gone or disabled, and is not to be given a certificate."""
    try:
        return await ensure_identity(service, FIRST_ADMINISTRATOR)
    except (NotFound, FailedPrecondition) as error:
        _LOG.warning("no_certificate_for_first_administrator", reason=error.reason)
        return None
