"""What commands print: JSON that stays as it is, or tables for people."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from handclasp.cli.text import one_line, shown, shown_json
from handclasp.client.names import resource_id

_WIDTH_FOR_SCRIPTS = 100_000  # characters


def to_json(message: Message) -> dict[str, Any]:
    """A resource as proto3 JSON with the proto's field names; and its `id`, the last part of its name, if it has one.

    Fields that are empty are there too, so that a script finds them; messages and timestamps that are unset are not.
    """
    fields: dict[str, Any] = MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return {"id": resource_id(fields["name"]), **fields} if fields.get("name") else fields


def print_json(value: Mapping[str, Any]) -> None:
    """One JSON document, indented, fit for a terminal."""
    print(shown_json(json.dumps(value, indent=2, ensure_ascii=False)))


def print_details(title: str, rows: Sequence[tuple[str, str]]) -> None:
    """One thing, a line for each of its properties; those that are empty are left out."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        if value:
            table.add_row(name, _text(value))
    console = _console()
    console.print(_text(title), style="bold", soft_wrap=True)
    console.print(table)


def print_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], empty: str, *, whole: Collection[str] = ()
) -> None:
    """Several things, a line for each. The first column is never cut or wrapped, as far as the width allows.

    Args:
        columns: their headings.
        rows: a cell for each column.
        empty: what is said if there are no rows.
        whole: more columns that are not wrapped while others can be.
    """
    console = _console()
    if not rows:
        console.print(_text(empty))
        return
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", show_edge=False, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, overflow="fold", no_wrap=number == 0 or column in whole)
    for row in rows:
        table.add_row(*(_text(cell) for cell in row))
    console.print(table)


def print_line(line: str) -> None:
    """A sentence. Not wrapped, so that paths and names can be copied."""
    Console(highlight=False).print(_text(line), soft_wrap=True)


def print_note(note: str) -> None:
    """A line on standard error, beside what is printed."""
    print(f"NOTE: {one_line(note)}", file=sys.stderr)


def moment(timestamp: Timestamp) -> str:
    """A time in UTC as ISO 8601, to the second; empty if unset."""
    if not timestamp.ListFields():
        return ""
    return f"{timestamp.ToDatetime():%Y-%m-%dT%H:%M:%SZ}"


def _console() -> Console:
    # A script that reads lines wants each thing on one.
    return Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH_FOR_SCRIPTS)


def _text(content: str) -> Text:
    # A Text, so that square brackets are not taken for markup.
    return Text(shown(content))
