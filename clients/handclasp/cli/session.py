"""What a command works with: who calls, where to, and the form of the output."""

from __future__ import annotations

import dataclasses
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from handclasp.cli.passwords import ask_password
from handclasp.client import context as contexts
from handclasp.client import files
from handclasp.client.credentials import BasicCredentials
from handclasp.client.names import USERS, resource_id
from handclasp.errors import InvalidArgument, Reason, Unauthenticated

if TYPE_CHECKING:
    from handclasp.client.client import HandclaspClient
    from handclasp.client.credentials import BasicCredentials


class Output(StrEnum):
    """The forms of output."""

    TEXT = "text"
    JSON = "json"


@dataclasses.dataclass(frozen=True, slots=True)
class CommonOptions:
    """Options that stand before or after the subcommand; after wins."""

    context_file: Path | None = None
    username: str | None = None
    password_file: Path | None = None

    def over(self, other: CommonOptions) -> CommonOptions:
        """These options, and those of `other` where these have none."""
        return CommonOptions(
            context_file=self.context_file or other.context_file,
            username=self.username or other.username,
            password_file=self.password_file or other.password_file,
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Session:
    """One run of a command."""

    options: CommonOptions
    output: Output = Output.TEXT

    @property
    def as_json(self) -> bool:
        """Whether JSON is wanted."""
        return self.output is Output.JSON

    def context(self) -> contexts.Context:
        """The context file's content.

        Raises:
            HandclaspError: there is none, or it does not fit.
        """
        return contexts.load(contexts.find(self.options.context_file))

    def context_if_any(self) -> contexts.Context:
        """The context file's content, or an empty context if none was named and there is none in the usual place."""
        path = contexts.find(self.options.context_file)
        return contexts.Context() if path == contexts.default_path() and not path.exists() else contexts.load(path)

    def credentials(self) -> BasicCredentials | None:
        """The password login that the options ask for; the password comes from the terminal if from nowhere else.

        Raises:
            Unauthenticated: no password, and nobody to ask (CREDENTIALS_MISSING).
            typer.BadParameter: a password file, and nobody whose password it is.
        """
        self._check_login()
        if self.options.username is None:
            return None
        username = resource_id(self.options.username) if "/" in self.options.username else self.options.username
        if self.options.password_file is not None:
            return BasicCredentials(username, files.read_password(self.options.password_file))
        if not sys.stdin.isatty():
            raise Unauthenticated(
                Reason.CREDENTIALS_MISSING, f"there is no password for {USERS}/{username}; give --password-file"
            )
        return BasicCredentials(username, ask_password(f"Password of {username}"))

    def client(self) -> HandclaspClient:
        """A client with the identity that options and context ask for; `--as` means password only, by one-way TLS."""
        from handclasp.client.client import HandclaspClient  # noqa: PLC0415 - imports gRPC

        self._check_login()
        context = self.context()
        credentials = self.credentials()
        if credentials is not None:
            context = dataclasses.replace(context, certificate=None, key=None, username=None, password_file=None)
        return HandclaspClient.from_context(context, credentials)

    def holder_client(self, certificate: Path | None, key: Path | None) -> HandclaspClient:
        """A client that presents a certificate: the one given, or else the context's.

        Raises:
            InvalidArgument: there is none (CREDENTIALS_MISSING).
            typer.BadParameter: one without its key, or a login without a certificate.
        """
        from handclasp.client.client import HandclaspClient  # noqa: PLC0415 - imports gRPC

        if (certificate is None) != (key is None):
            raise typer.BadParameter("--cert and --key go together; give both or neither")
        if self.options.username is not None:
            raise typer.BadParameter("this takes a certificate, and --as logs in without one; leave it out")
        context = self.context()
        if certificate is not None:
            # The context's password is for the context's certificate.
            context = dataclasses.replace(context, certificate=certificate, key=key, username=None, password_file=None)
        if context.certificate is None:
            raise InvalidArgument(
                Reason.CREDENTIALS_MISSING, "the context has no certificate to present; give --cert and --key"
            )
        return HandclaspClient.from_context(context)

    def _check_login(self) -> None:
        if self.options.password_file is not None and self.options.username is None:
            raise typer.BadParameter("--password-file needs --as: whose password it is")
