"""How a command is declared: an async function that takes a `Session` and its own options.

The options that all commands share are added here: `--context`, `--as` and `--password-file`, and `-o`.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any

import typer

from handclasp.cli.session import CommonOptions, Output, Session

ContextOption = Annotated[
    Path | None,
    typer.Option("--context", metavar="FILE", help="The context file: where the services are, and who you are."),
]
AsOption = Annotated[
    str | None,
    typer.Option("--as", metavar="USER", help="Log in by password as this user, without a certificate."),
]
PasswordFileOption = Annotated[
    Path | None,
    typer.Option("--password-file", metavar="FILE", help="With --as: the file with the password (mode 0600)."),
]
OutputOption = Annotated[Output, typer.Option("--output", "-o", help="The form of what is printed.")]

Command = Callable[..., Coroutine[Any, Any, None]]

_CONTEXT, _AS, _PASSWORD_FILE, _OUTPUT = "common_context", "common_as", "common_password_file", "common_output"


def group(text: str) -> typer.Typer:
    """A group of commands: `handclasp cert issue`."""
    app = single(text)

    @app.callback()
    def _is_a_group() -> None:
        """Without a callback, Typer takes a group of one command for that command."""

    return app


def single(text: str) -> typer.Typer:
    """What has one command only, of the same name: `handclasp run`."""
    return typer.Typer(help=text, add_completion=False, pretty_exceptions_enable=False)


def command(app: typer.Typer, name: str, *, login: bool = True) -> Callable[[Command], Command]:
    """Adds an async function to a group as a command.

    Args:
        app: the group.
        name: the command's name.
        login: whether `--as` and `--password-file` go after it too. Not for commands where `--password-file` is another
            user's password: there they go before.
    """
    common = {_CONTEXT: (ContextOption, None), _OUTPUT: (OutputOption, Output.TEXT)}
    if login:
        common |= {_AS: (AsOption, None), _PASSWORD_FILE: (PasswordFileOption, None)}

    def add(function: Command) -> Command:
        def run(ctx: typer.Context, **values: Any) -> None:
            own = CommonOptions(
                context_file=values.pop(_CONTEXT),
                username=values.pop(_AS, None),
                password_file=values.pop(_PASSWORD_FILE, None),
            )
            before = ctx.obj if isinstance(ctx.obj, CommonOptions) else CommonOptions()
            session = Session(own.over(before), Output(values.pop(_OUTPUT)))
            asyncio.run(function(session, **values))

        # Typer reads the options off the signature.
        _, *parameters = inspect.signature(function, eval_str=True).parameters.values()
        keyword_only = inspect.Parameter.KEYWORD_ONLY
        signature = [
            inspect.Parameter("ctx", keyword_only, annotation=typer.Context),
            *(parameter.replace(kind=keyword_only) for parameter in parameters),
            *(
                inspect.Parameter(option, keyword_only, annotation=annotation, default=default)
                for option, (annotation, default) in common.items()
            ),
        ]
        run.__signature__ = inspect.Signature(signature)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in signature}
        run.__doc__ = function.__doc__
        app.command(name)(run)
        return function

    return add
