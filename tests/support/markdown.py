"""Reads what is in the project's Markdown: code, links, tables."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?:(?<=\n\n)|\A)((?: {4}.*\n|\n(?= {4}))+)")


def fenced(text: str, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return [match[2] for match in _FENCE.finditer(text) if match[1] == language]


def indented(text: str) -> list[str]:
    """The indented blocks, which in this project are shell commands; long lines are joined."""
    without_fenced = _FENCE.sub("", text)
    return [textwrap.dedent(match[1]).replace("\\\n", "") for match in _INDENTED.finditer(without_fenced)]


def inline_code(text: str) -> list[str]:
    """What stands between backquotes in running text, and in tables."""
    return [" ".join(code.split()) for code in re.findall(r"(?<!`)`([^`]+)`(?!`)", _FENCE.sub("", text))]


def links(text: str) -> list[str]:
    """The targets of links."""
    return re.findall(r"\]\(([^)\s]+)\)", _FENCE.sub("", text))


def anchors(text: str) -> set[str]:
    """What links can name after `#`: each heading, as GitHub writes it."""
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def section(text: str, heading: str) -> str:
    """What stands below a heading, up to the next one."""
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL)
    assert found is not None, f"there is no heading {heading!r}"
    return found[1]


def rows(text: str) -> Iterator[list[str]]:
    """The cells of each row of each table, header and rule left out."""
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if line.startswith("|") and not line.startswith("|---") and not _is_header(lines, number):
            yield [cell.strip() for cell in line.strip("|").split("|")]


def _is_header(lines: list[str], number: int) -> bool:
    return number + 1 < len(lines) and lines[number + 1].startswith("|---")
