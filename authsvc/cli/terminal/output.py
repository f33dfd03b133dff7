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

from authsvc.cli.terminal.text import columns_of, pad, printable

if TYPE_CHECKING:
    from google.protobuf.message import Message

__all__ = ["Cell", "Column", "Output", "as_data", "join"]

_GAP: Final = 2
_FOLDS_AT: Final = 24
"""Columns from which on a column of text may be folded to make room for others."""
_FOLDS_TO: Final = 8
"""Columns that a folded column keeps, so that it can still be read."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    width  columns of the terminal that it takes at least, so that it stands still when its values change length
    whole  never broken over lines: an id has to be copied in one go
    wide   left out on a terminal that is too narrow for it, the highest number first and among equals the last one; a
           pipe and JSON have it. 0: never left out
    """

    title: str
    width: int = 0
    whole: bool = False
    wide: int = 0


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
    widths = _widths(columns, rows, console.width)
    if not widths:
        _draw_one_by_one(columns, rows)
        return
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for place, width in widths.items():
        table.add_column(columns[place].title, width=width, no_wrap=columns[place].whole, overflow="fold")
    for row in rows:
        # Text, not str: a name with square brackets is not markup.
        table.add_row(*(Text(row[place].text, style=row[place].style) for place in widths))
    console.print(table)


def _draw_one_by_one(columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> None:
    """A terminal too narrow for any table gets each value on a line of its own."""
    width = max(columns_of(column.title) for column in columns)
    for number, row in enumerate(rows):
        if number:
            _draw_line("", "")
        for column, cell in zip(columns, row, strict=True):
            _draw_line(f"{pad(column.title, width)}  {cell.text}", cell.style)


def _widths(columns: Sequence[Column], rows: Sequence[Sequence[Cell]], room: int) -> dict[int, int]:
    """The places of the columns to show, each with its width, so that no cell is cut.

    Of the wide columns there are as many as fit. What is left over is folded: between words, and within them only if
    that does not do. {} if even that is too wide.
    """
    texts = [[column.title, *(row[place].text for row in rows)] for place, column in enumerate(columns)]
    full = [max(column.width, *map(columns_of, texts[place])) for place, column in enumerate(columns)]
    shown = _that_fit(columns, full, room)
    words = {
        place: full[place]
        if columns[place].whole
        else max(columns_of(word) for text in texts[place] for word in (text.split() or [""]))
        for place in shown
    }
    least = {place: words[place] if columns[place].whole else min(words[place], _FOLDS_TO) for place in shown}
    widths = {place: full[place] for place in shown}
    for floor in (words, least):
        while _total(widths.values()) > room:
            place = max(widths, key=lambda one: widths[one] if widths[one] > floor[one] else 0)
            if widths[place] <= floor[place]:
                break
            widths[place] -= 1
    return widths if _total(widths.values()) <= room else {}


def _that_fit(columns: Sequence[Column], full: Sequence[int], room: int) -> list[int]:
    """The places of the columns to show: as many of the wide ones as the terminal has room for, which may be folded."""
    needs = [
        full[place] if column.whole else max(columns_of(column.title), column.width, min(full[place], _FOLDS_AT))
        for place, column in enumerate(columns)
    ]
    shown = [place for place, column in enumerate(columns) if not column.wide]
    for place in sorted(set(range(len(columns))) - set(shown), key=lambda one: columns[one].wide):
        if _total(needs[one] for one in (*shown, place)) > room:
            break
        shown.append(place)
    return sorted(shown)


def _total(widths: Iterable[int]) -> int:
    found = list(widths)
    return sum(found) + _GAP * (len(found) - 1)


def _draw_line(text: str, style: str) -> None:
    from rich.console import Console
    from rich.text import Text

    Console(highlight=False, soft_wrap=True).print(Text(text, style=style))
