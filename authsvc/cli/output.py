"""What a command prints: tables for people, plain columns for pipes, proto JSON for scripts.

On a terminal tables are drawn and coloured by rich, which is only loaded for that. Anywhere else they are plain columns
under a line of titles: no colour, no cutting, no lines drawn. Text that came from elsewhere is made printable here, in
one place.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import click

from authsvc.cli.text import columns_of, pad, printable

if TYPE_CHECKING:
    from google.protobuf.message import Message

__all__ = ["Cell", "Column", "Output", "as_data", "join"]

_GAP: Final = 2
_FOLDS_AT: Final = 24
"""Columns from which on a column of text may be folded to make room for others."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    width  columns of the terminal that it takes at least, so that it stands still when its values change length
    whole  never broken over lines: an id has to be copied in one go
    wide   left out on a terminal that is too narrow for it; a pipe and JSON have it
    """

    title: str
    width: int = 0
    whole: bool = False
    wide: bool = False


@dataclass(frozen=True, slots=True)
class Cell:
    """A value in a table, with its style on a terminal."""

    text: str
    style: str = ""


def as_data(message: Message) -> dict[str, Any]:
    """An answer as Output.message prints it."""
    from google.protobuf.json_format import MessageToDict

    data: dict[str, Any] = MessageToDict(message, always_print_fields_with_no_presence=True)
    return data


def join(names: Iterable[str]) -> str:
    """Names as one cell; "-" for none."""
    return " ".join(names) or "-"


class Output:
    """Where a command's answer goes: stdout, as JSON or for people."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json

    def message(self, message: Message) -> None:
        """Prints an answer in proto JSON: lowerCamelCase names, UTC timestamps, 64-bit numbers as strings.

        Every field without presence is there, so that a script need not ask whether it is.
        """
        self.data(as_data(message))

    def data(self, value: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> None:
        """Prints JSON: an object, or a list of several. It is ASCII, so it cannot hold a command for a terminal."""
        click.echo(json.dumps(value, indent=2))

    def line(self, text: str = "", style: str = "") -> None:
        """Prints a line for people."""
        text = printable(text)
        if style and _on_terminal():
            _draw_line(text, style)
        else:
            click.echo(text)

    def table(self, columns: Sequence[Column], rows: Iterable[Sequence[Cell | str]], *, empty: str = "") -> None:
        """Prints a table for people, or `empty` if there are no rows."""
        cells = [[_cell(one) for one in row] for row in rows]
        if not cells and empty:
            self.line(empty)
        elif _on_terminal():
            _draw_table(columns, cells)
        else:
            _write_table(columns, cells)

    def pairs(self, rows: Iterable[tuple[str, str]]) -> None:
        """Prints names and their values, one pair a line."""
        found = list(rows)
        width = max((columns_of(name) for name, _ in found), default=0)
        for name, value in found:
            self.line(f"{pad(name, width)}  {value}".rstrip())

    def note(self, text: str) -> None:
        """Tells a person something beside the answer, on stderr. Scripts that asked for JSON do not get it."""
        if not self.as_json:
            click.echo(printable(text), err=True)


def _cell(value: Cell | str) -> Cell:
    if isinstance(value, str):
        return Cell(printable(value))
    return Cell(printable(value.text), value.style)


def _on_terminal() -> bool:
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def _write_table(columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> None:
    widths = [
        max(column.width, columns_of(column.title), *(columns_of(row[place].text) for row in rows))
        for place, column in enumerate(columns)
    ]
    for texts in ([column.title.upper() for column in columns], *([cell.text for cell in row] for row in rows)):
        click.echo("  ".join(pad(text, width) for text, width in zip(texts, widths, strict=True)).rstrip())


def _draw_table(columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> None:
    # rich takes 50 ms to load; only who looks at a table pays for it.
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    longest = [max((columns_of(row[place].text) for row in rows), default=0) for place in range(len(columns))]
    shown = _that_fit(columns, longest, console.width)
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for place in shown:
        column = columns[place]
        width = max(column.width, longest[place]) if column.whole else column.width
        table.add_column(column.title, min_width=width or None, no_wrap=column.whole, overflow="fold")
    for row in rows:
        # Text, not str: a name with square brackets is not markup.
        table.add_row(*(Text(row[place].text, style=row[place].style) for place in shown))
    console.print(table)


def _that_fit(columns: Sequence[Column], longest: Sequence[int], width: int) -> list[int]:
    """The places of the columns to show: as many of the wide ones, from the left, as the terminal has room for."""
    needs = [
        max(columns_of(column.title), column.width, longest[place] if column.whole else min(longest[place], _FOLDS_AT))
        for place, column in enumerate(columns)
    ]
    room = width - sum(need + _GAP for column, need in zip(columns, needs, strict=True) if not column.wide)
    shown = []
    for place, column in enumerate(columns):
        if column.wide:
            room -= needs[place] + _GAP
        if not column.wide or room >= 0:
            shown.append(place)
    return shown


def _draw_line(text: str, style: str) -> None:
    from rich.console import Console
    from rich.text import Text

    Console(highlight=False, soft_wrap=True).print(Text(text, style=style))
