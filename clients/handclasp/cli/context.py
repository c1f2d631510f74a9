"""`handclasp context`: the context file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from handclasp.cli.commands import command, group
from handclasp.cli.output import print_details, print_json, print_line
from handclasp.cli.session import Session
from handclasp.cli.values import hosts_and_ports
from handclasp.client import context as contexts

app = group("The context file: where the services are, and who you are.")


def _address_option(name: str, text: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(name, metavar="HOST:PORT[,...]", help=text, parser=hosts_and_ports)
    return option


def _file_option(name: str, text: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(name, metavar="FILE", help=text)
    return option


@command(app, "new", login=False)
async def new(
    session: Session,
    *,
    certificates_tls: Annotated[
        str | None, _address_option("--certificates-tls", "Certificate service, one-way TLS.")
    ] = None,
    certificates_mtls: Annotated[
        str | None, _address_option("--certificates-mtls", "Certificate service, mTLS.")
    ] = None,
    executions: Annotated[str | None, _address_option("--executions", "Execution server, mTLS.")] = None,
    ca_file: Annotated[Path | None, _file_option("--ca", "The CA certificate; see `handclasp trust fetch`.")] = None,
    certificate: Annotated[Path | None, _file_option("--cert", "Your certificate.")] = None,
    key: Annotated[Path | None, _file_option("--key", "Its private key (mode 0600).")] = None,
    username: Annotated[str | None, typer.Option("--user", help="Who logs in by password.")] = None,
    password_file: Annotated[
        Path | None, _file_option("--password-file", "The password is in this file (mode 0600).")
    ] = None,
    out: Annotated[Path | None, _file_option("--out", "Where to write it instead of the usual place.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a context file that is there.")] = False,
) -> None:
    """Write a context file (mode 0600), in the place that --context or HANDCLASP_CONTEXT name, or in the usual one."""
    made = contexts.Context(
        certificates_tls=certificates_tls,
        certificates_mtls=certificates_mtls,
        executions=executions,
        ca_file=ca_file,
        certificate=certificate,
        key=key,
        username=username,
        password_file=password_file,
    )
    path = out or contexts.find(session.options.context_file)
    contexts.write(path, made, force=force)
    if session.as_json:
        print_json(_fields(path, made))
    else:
        print_line(f"Context file: {path}")


@command(app, "show", login=False)
async def show(session: Session) -> None:
    """Show which context file counts, and what is in it. Passwords and keys are not read."""
    path = contexts.find(session.options.context_file)
    fields = _fields(path, contexts.load(path))
    if session.as_json:
        print_json(fields)
    else:
        print_details(str(path), [(name, value or "") for name, value in fields.items() if name != "context_file"])


def _fields(path: Path, context: contexts.Context) -> dict[str, str | None]:
    fields: dict[str, str | None] = {"context_file": str(path.absolute())}
    for name in contexts.FIELDS:
        value = getattr(context, name)
        fields[name] = str(value.absolute()) if isinstance(value, Path) else value
    return fields
