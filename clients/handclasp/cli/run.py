"""`handclasp run`: runs an integration."""

from __future__ import annotations

import dataclasses
import re
import sys
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from handclasp.cli.commands import command, single
from handclasp.cli.json_text import pretty
from handclasp.cli.session import CommonOptions, Output, Session
from handclasp.cli.text import shown_json
from handclasp.cli.values import duration, hosts_and_ports
from handclasp.client import files
from handclasp.client.client import HandclaspClient
from handclasp.client.names import INTEGRATIONS, resource_name
from handclasp.errors import Aborted, InvalidArgument, Reason, invalid_field
from handclasp.integrations.v1.integration_service_pb2 import ExecuteIntegrationRequest

app = single("Run an integration.")

# What may be meant as a file's name: no JSON object or array, and not one of the ways to say where the input is.
_FILE_NAME = re.compile(r"[^-@{\[\"\s][^\n\"{}]{0,200}")


@command(app, "run", login=False)
async def run(
    session: Session,
    integration: Annotated[
        str, typer.Argument(metavar="INTEGRATION", help="Such as orders.summarize.", show_default=False)
    ],
    *,
    given: Annotated[
        str, typer.Option("--input", metavar="JSON|@FILE|-", help="The input as JSON: here, in a file, or on stdin.")
    ] = "{}",
    certificate: Annotated[
        Path | None, typer.Option("--cert", metavar="FILE", help="Your certificate, instead of the context's.")
    ] = None,
    key: Annotated[Path | None, typer.Option("--key", metavar="FILE", help="Its private key (mode 0600).")] = None,
    user: Annotated[
        str | None, typer.Option("--user", metavar="USER", help="Log in by password beside the certificate.")
    ] = None,
    password_file: Annotated[
        Path | None, typer.Option("--password-file", metavar="FILE", help="With --user: the password is in this file.")
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            "--address", metavar="HOST:PORT[,...]", help="The execution server's address.", parser=hosts_and_ports
        ),
    ] = None,
    ca_file: Annotated[
        Path | None, typer.Option("--ca", metavar="FILE", help="The CA certificate to check the server with.")
    ] = None,
    version: Annotated[str, typer.Option("--version", help="Which version; the newest if not given.")] = "",
    timeout: Annotated[
        timedelta | None,
        typer.Option("--timeout", metavar="TIME", help="Give up after this: 30s, 5m.", parser=duration),
    ] = None,
) -> None:
    """Run an integration over mTLS and print its output: JSON exactly as it came; indented on a terminal.

    On a terminal and with -o json, what could steer a terminal is escaped.
    """
    if (certificate is None) != (key is None):
        raise typer.BadParameter("--cert and --key go together; give both or neither")
    if password_file is not None and user is None and session.options.username is None:
        raise typer.BadParameter("--password-file needs --user")
    request = ExecuteIntegrationRequest(
        name=resource_name(INTEGRATIONS, integration), version=version, input_json=_input(given)
    )
    login = Session(CommonOptions(username=user, password_file=password_file).over(session.options)).credentials()
    # All that a context would say can be said by options.
    context = session.context() if address is None or ca_file is None else session.context_if_any()
    context = dataclasses.replace(
        context,
        executions=address or context.executions,
        ca_file=ca_file or context.ca_file,
        certificate=certificate or context.certificate,
        key=key or context.key,
    )
    if certificate is not None:
        # The context's password is for the context's certificate.
        context = dataclasses.replace(context, username=None, password_file=None)
    async with HandclaspClient.from_context(context, login) as client:
        seconds = None if timeout is None else timeout.total_seconds()
        try:
            answer = await client.integrations.ExecuteIntegration(request, timeout=seconds)
        except InvalidArgument as error:
            raise _all_faults(error, integration, given) from error
    if not answer.output_json:
        raise Aborted(
            Reason.ANSWER_NOT_USABLE,
            "the server answered without an output, though it says that the integration has run; see that the address "
            "is that of an execution server, and whether it is of another version",
        )
    if session.output is Output.JSON:
        print(shown_json(answer.output_json))
    else:
        print(pretty(answer.output_json) if sys.stdout.isatty() else answer.output_json)


def _all_faults(error: InvalidArgument, integration: str, given: str) -> InvalidArgument:
    if error.reason != Reason.INPUT_INVALID or not error.violations:
        return error
    faults = "; ".join(
        f"{violation.field}: {violation.description}" if violation.field else violation.description
        for violation in error.violations
    )
    advice = f"`handclasp integration show {integration}` says what fits"
    if _FILE_NAME.fullmatch(given):
        advice = f"if it is in a file, give --input @{given}"
    return InvalidArgument(
        error.reason,
        f"the input does not fit: {faults}; {advice}",
        metadata=error.metadata,
        violations=error.violations,
    )


def _input(given: str) -> str:
    if given == "-":
        content, what = sys.stdin.buffer.read(), "standard input"
    elif given.startswith("@"):
        content, what = files.read_bytes(Path(given[1:]), "the input file"), given[1:]
    else:
        return given
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise invalid_field(
            "input", f"{what} is not UTF-8 text (at byte {error.start})", Reason.INPUT_INVALID
        ) from None
