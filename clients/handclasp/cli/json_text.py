"""Indents JSON without touching what is in it: 1.10 stays 1.10, and a number of fifty digits keeps them all."""

from __future__ import annotations

import re
from collections.abc import Iterator

from handclasp.cli.text import shown_json

_LEXEME = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+')


def pretty(text: str) -> str:
    """JSON text, two spaces a level, fit for a terminal. Numbers stay as they are written, and strings but for
    what could steer the terminal."""
    return shown_json("".join(_pieces(_LEXEME.findall(text))))


def _pieces(lexemes: list[str]) -> Iterator[str]:
    level = 0
    for lexeme, following in zip(lexemes, [*lexemes[1:], ""], strict=True):
        if lexeme in "{[":
            yield lexeme
            if following not in ("}", "]"):
                level += 1
                yield _new_line(level)
            continue
        if lexeme == ",":
            yield f",{_new_line(level)}"
        elif lexeme == ":":
            yield ": "
        else:
            yield lexeme
        if following in ("}", "]"):
            level -= 1
            yield _new_line(level)


def _new_line(level: int) -> str:
    return "\n" + "  " * level
