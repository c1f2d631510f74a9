"""Where passwords and tokens come from: a file, standard input, or a terminal without echo. Passwords never come from
the command line."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from handclasp.client import files


def given_password(file: Path | None, from_stdin: bool) -> str | None:
    """The password from a file or from standard input's first line; None if neither was asked for."""
    if file is not None and from_stdin:
        raise typer.BadParameter("give --password-file or --password-stdin, not both")
    if file is not None:
        return files.read_password(file)
    if from_stdin:
        return files.password_text(sys.stdin.buffer.readline(), "the password on standard input")
    return None


def ask_password(prompt: str, *, confirm: bool = False) -> str:
    """Asks at the terminal, without echo."""
    answer: str = typer.prompt(prompt, hide_input=True, confirmation_prompt=confirm, err=True)
    return answer
