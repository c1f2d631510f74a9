"""`handclasp admin`: tokens that set up other machines, and offline work on the data folder."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from handclasp.certificates.v1.certificate_service_pb2 import (
    CreateEnrollmentTokenRequest,
    GetTrustBundleRequest,
    ListEnrollmentTokensRequest,
    RevokeEnrollmentTokenRequest,
)
from handclasp.certificates.v1.enrollment_token_pb2 import EnrollmentToken
from handclasp.cli.commands import command, group
from handclasp.cli.first_administrator import announce
from handclasp.cli.instructions import Instructions
from handclasp.cli.output import moment, print_json, print_line, print_table, to_json
from handclasp.cli.session import Session
from handclasp.cli.values import duration, to_duration
from handclasp.client.names import ENROLLMENT_TOKENS, USERS, resource_id, resource_name
from handclasp.client.paging import items
from handclasp.errors import FailedPrecondition, Reason, invalid_field

app = group("Tokens for other machines; let a locked-out administrator in again.")


@command(app, "token")
async def token(
    session: Session,
    *,
    user: Annotated[str | None, typer.Option("--user", metavar="U", help="Whose certificate it is to be.")] = None,
    replica: Annotated[
        bool, typer.Option("--replica", help="Instead: for another replica of the certificate service, a CA itself.")
    ] = False,
    server_names: Annotated[
        list[str] | None,
        typer.Option("--server-name", metavar="N", help="A DNS name or IP address, for a relying party; repeatable."),
    ] = None,
    expires_in: Annotated[
        timedelta | None,
        typer.Option("--expires-in", metavar="TIME", help="90m, 2h; an hour if not given.", parser=duration),
    ] = None,
) -> None:
    """Make a token with which another machine gets one certificate, once: `handclasp enroll`.

    It is shown once and stored nowhere. Whoever has it gets the certificate; and with one for a replica, can issue
    certificates for anybody.
    """
    if (user is None) != replica:
        raise typer.BadParameter("give --user, or --replica")
    if replica and server_names:
        raise typer.BadParameter("--server-name is for a user's certificate; a replica has its own in its settings")
    request = CreateEnrollmentTokenRequest(
        user="" if user is None else resource_name(USERS, user),
        purpose=EnrollmentToken.PURPOSE_REPLICA if replica else EnrollmentToken.PURPOSE_CERTIFICATE,
        server_names=server_names or (),
        lifetime=None if expires_in is None else to_duration(expires_in),
    )
    context = session.context()
    async with session.client() as client:
        # Nothing may go wrong once the token is made: nobody else has it.
        bundle = await client.certificates.GetTrustBundle(GetTrustBundleRequest())
        made = await client.certificates.CreateEnrollmentToken(request)
    instructions = Instructions(made, bundle, context)
    if session.as_json:
        print_json(to_json(made) | instructions.fields())
    else:
        instructions.show()


@command(app, "tokens")
async def tokens(
    session: Session,
    *,
    user: Annotated[str | None, typer.Option("--user", metavar="U", help="Only those for this user.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="How many at most.")] = None,
) -> None:
    """List the tokens that are still good, neither used nor expired: by their ids, since they are stored nowhere."""
    request = ListEnrollmentTokensRequest(user="" if user is None else resource_name(USERS, user))
    async with session.client() as client:
        pages = items(
            client.certificates.ListEnrollmentTokens, request, lambda page: list(page.enrollment_tokens), limit
        )
        found = [token async for token in pages]
    if session.as_json:
        print_json({"enrollment_tokens": [to_json(token) for token in found]})
        return
    rows = [
        (
            resource_id(token.name),
            "a replica" if token.purpose == EnrollmentToken.PURPOSE_REPLICA else resource_id(token.user),
            ", ".join(token.server_names),
            moment(token.expire_time),
            resource_id(token.created_by),
        )
        for token in found
    ]
    print_table(
        ("ID", "FOR", "SERVER NAMES", "EXPIRES", "MADE BY"), rows, "no tokens that are still good", whole=("EXPIRES",)
    )


@command(app, "revoke-token")
async def revoke_token(
    session: Session,
    token_id: Annotated[
        str,
        typer.Argument(metavar="ID", help="As `handclasp admin tokens` lists it; not the token.", show_default=False),
    ],
) -> None:
    """Take a token back: nobody gets anything for it any more."""
    request = RevokeEnrollmentTokenRequest(name=resource_name(ENROLLMENT_TOKENS, token_id))
    async with session.client() as client:
        await client.certificates.RevokeEnrollmentToken(request)
    if session.as_json:
        print_json({"revoked": request.name})
        return
    print_line(f"{request.name} is good for nothing any more.")


@app.command("recover")
def recover(
    data_dir: Annotated[Path, typer.Option(metavar="DIR", help="The service's data folder; it must not be running.")],
    user: Annotated[str, typer.Option(metavar="USER", help="Who is to be an administrator again.")] = "admin",
) -> None:
    """Make a user an active administrator with a new password and certificate, when the last one is lost."""
    from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415 - with the service's parts, only when it is run

    from handclasp.certificate_service import first_start  # noqa: PLC0415
    from handclasp.certificate_service.certificate_authority import InstallationError  # noqa: PLC0415
    from handclasp.certificate_service.context_file import ContextFileError  # noqa: PLC0415
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
    except (
        first_start.RecoveryError,
        ContextFileError,
        DataFolderError,
        InstallationError,
        SchemaTooNewError,
    ) as error:
        raise FailedPrecondition(Reason.RECOVERY_NOT_POSSIBLE, str(error)) from error
    except SQLAlchemyError as error:
        raise FailedPrecondition(Reason.RECOVERY_NOT_POSSIBLE, database_fault(error)) from error
    announce(prepared, data_dir)
