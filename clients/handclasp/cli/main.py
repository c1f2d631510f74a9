"""The `handclasp` command: its groups, and the options that stand before them."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping
from io import TextIOWrapper
from typing import Annotated, ClassVar

import typer

from handclasp.cli.commands import AsOption, ContextOption, PasswordFileOption
from handclasp.cli.exit_status import USAGE
from handclasp.cli.lazy import LazyCommand, LazyGroup
from handclasp.cli.session import CommonOptions


class Handclasp(LazyGroup):
    """All commands, in the order of `--help`. Each module is imported when its command is run."""

    commands_by_name: ClassVar[Mapping[str, LazyCommand]] = {
        "up": LazyCommand("handclasp.cli.up", "Both services on this machine, with one command."),
        "serve": LazyCommand("handclasp.cli.serve", "One service in the foreground, for real deployments."),
        "context": LazyCommand("handclasp.cli.context", "The context file: where the services are, and who you are."),
        "user": LazyCommand("handclasp.cli.user", "Users: create, list, change, disable."),
        "profile": LazyCommand("handclasp.cli.profile", "Access profiles: what users may do."),
        "cert": LazyCommand("handclasp.cli.cert", "Certificates: issue, renew, upload, list, hold, revoke."),
        "enroll": LazyCommand("handclasp.cli.enroll", "The first certificate of this machine, with a token."),
        "csr": LazyCommand("handclasp.cli.csr", "Certificate signing requests, made with a key of one's own."),
        "trust": LazyCommand(
            "handclasp.cli.trust",
            "Outside CAs whose certificates may be uploaded; and this service's own CA, by its fingerprint.",
        ),
        "run": LazyCommand("handclasp.cli.run", "Run an integration."),
        "integration": LazyCommand("handclasp.cli.integration", "Integrations that you may run."),
        "admin": LazyCommand(
            "handclasp.cli.admin", "Tokens for other machines; let a locked-out administrator in again."
        ),
        "explain": LazyCommand("handclasp.cli.explain", "Say why something was refused."),
    }


app = typer.Typer(
    cls=Handclasp,
    help="Client certificates that can be taken away, and integrations that run under them.",
    epilog="Exit status: 0 ok, 2 usage, 3 refused by permission or authentication (a refused TLS handshake too), "
    "4 not found, 5 invalid input, 130 interrupted, 1 else.",
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def _before_the_subcommand(
    ctx: typer.Context,
    context: ContextOption = None,
    username: AsOption = None,
    password_file: PasswordFileOption = None,
    version: Annotated[bool, typer.Option("--version", help="Show the version, and no more.")] = False,
) -> None:
    if version:
        from importlib.metadata import version as installed_version  # noqa: PLC0415 - slow, and rarely asked

        print(installed_version("handclasp"))
        raise typer.Exit
    if ctx.invoked_subcommand is None:
        with contextlib.redirect_stdout(sys.stderr):
            print(ctx.get_help())
        raise typer.Exit(USAGE)
    ctx.obj = CommonOptions(context, username, password_file)


def run() -> None:
    """The entry point. Exit status: 0 ok, 2 usage, 3 refused, 4 not found, 5 invalid input, 130 interrupted, 1 else."""
    # gRPC writes what it thinks of a connection to stderr, where our one line goes.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    app(prog_name="handclasp")
