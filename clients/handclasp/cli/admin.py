"""`handclasp admin`: offline work on the data folder."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from handclasp.cli.commands import group
from handclasp.cli.first_administrator import announce
from handclasp.errors import FailedPrecondition, Reason, invalid_field

app = group("Offline work on a data folder, for whoever has it.")


@app.command("recover")
def recover(
    data_dir: Annotated[Path, typer.Option(metavar="DIR", help="The service's data folder; it must not be running.")],
    user: Annotated[str, typer.Option(metavar="USER", help="Who is to be an administrator again.")] = "admin",
) -> None:
    """Make a user an active administrator with a new password and certificate, when the last one is lost."""
    from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415 - with the service's parts, only when it is run

    from handclasp.certificate_service import first_start  # noqa: PLC0415
    from handclasp.certificate_service.certificate_authority import InstallationError  # noqa: PLC0415
    from handclasp.certificate_service.data_folder import DataFolderError  # noqa: PLC0415
    from handclasp.certificate_service.main import utc_now  # noqa: PLC0415
    from handclasp.certificate_service.settings import CertificateServiceSettings  # noqa: PLC0415
    from handclasp.certificate_service.storage.faults import database_fault  # noqa: PLC0415
    from handclasp.certificate_service.storage.migrate import SchemaTooNewError  # noqa: PLC0415
    from handclasp.transport.logs import LogSettings, set_up_logging  # noqa: PLC0415
    from handclasp.transport.process import settings_fault  # noqa: PLC0415

    # That somebody was recovered is what this command prints.
    set_up_logging(LogSettings(level="ERROR"))
    if not data_dir.is_dir():
        raise invalid_field("--data-dir", f"{data_dir} is not a folder; name that of the service")
    try:
        settings = CertificateServiceSettings(data_dir=data_dir)
    except (ValueError, OSError) as error:
        raise invalid_field("settings", settings_fault(error, CertificateServiceSettings, {})) from error
    try:
        prepared = asyncio.run(first_start.recover(settings, utc_now, user))
    except (first_start.RecoveryError, DataFolderError, InstallationError, SchemaTooNewError) as error:
        raise FailedPrecondition(Reason.RECOVERY_NOT_POSSIBLE, str(error)) from error
    except SQLAlchemyError as error:
        raise FailedPrecondition(Reason.RECOVERY_NOT_POSSIBLE, database_fault(error)) from error
    announce(prepared, data_dir)
