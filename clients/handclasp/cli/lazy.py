"""Command groups that are imported when they are used, so that `--help` and completion stay quick."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup
from typer.exceptions import TyperException

from handclasp.cli.exit_status import USAGE, error_line, exit_status
from handclasp.cli.text import one_line
from handclasp.errors import HandclaspError


@dataclass(frozen=True, slots=True)
class LazyCommand:
    """A command or group of commands: the module whose `app` has it, and what `--help` says of it."""

    module: str
    help: str


class LazyGroup(TyperGroup):
    """The top of the command. Also the one place where errors become a line on stderr and an exit status."""

    commands_by_name: ClassVar[Mapping[str, LazyCommand]] = {}

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - the signature is Typer's
        return list(self.commands_by_name)

    def get_command(self, ctx: Any, cmd_name: str) -> TyperCommand | None:  # noqa: ARG002
        """Only name and help, for `--help` and completion of names; `resolve_command` has the real one."""
        entry = self.commands_by_name.get(cmd_name)
        return None if entry is None else TyperCommand(cmd_name, help=entry.help)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        entry = self.commands_by_name.get(args[0])
        if entry is None:
            return super().resolve_command(ctx, args)
        app = importlib.import_module(entry.module).app
        return args[0], typer.main.get_command(app), args[1:]

    def main(self, *args: Any, **kwargs: Any) -> Any:
        kwargs["standalone_mode"] = False
        try:
            status = super().main(*args, **kwargs)
        except HandclaspError as error:
            print(error_line(error), file=sys.stderr)
            sys.exit(exit_status(error))
        except typer.Abort:
            print("ABORTED: nothing was done", file=sys.stderr)
            sys.exit(1)
        except TyperException as error:
            context = getattr(error, "ctx", None)
            path = "handclasp" if context is None else context.command_path
            # Typer's choices are checked by pydantic, which says "Value error" first.
            print(
                one_line(f"USAGE: {error.format_message().replace('Value error, ', '')} (see `{path} --help`)"),
                file=sys.stderr,
            )
            sys.exit(USAGE)
        sys.exit(status if isinstance(status, int) else 0)
