"""The command's answers: tables for people, plain columns for pipes, proto JSON for scripts.

On a terminal rich draws and colours tables; it is loaded only then. In a pipe a table is plain columns under a line of
titles: no colour, nothing cut, no lines drawn. Untrusted text is made printable here.
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

# Widths are in columns of the terminal.
_GAP_WIDTH: Final = 2
_FOLDABLE_FROM_WIDTH: Final = 24
"""A column of this width or more counts with this width only when it is decided which optional columns fit."""
_MIN_FOLDED_WIDTH: Final = 8
"""A column of text is not folded to less than this, so that it stays readable."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    width     its least width, so that the layout does not jump when values change length
    whole     never folded over lines: an id must be copyable in one piece
    optional  0: always shown. Otherwise left out on a terminal that is too narrow: the highest number first, among
              equal numbers the last column first. Pipes and JSON always have the column
    """

    title: str
    width: int = 0
    whole: bool = False
    optional: int = 0


@dataclass(frozen=True, slots=True)
class Cell:
    """A value in a table, with its style on a terminal."""

    text: str
    style: str = ""


def as_data(message: Message) -> dict[str, Any]:
    """A response as the data that Output.message prints."""
    from google.protobuf.json_format import MessageToDict

    data: dict[str, Any] = MessageToDict(message, always_print_fields_with_no_presence=True)
    return data


def join(names: Iterable[str]) -> str:
    """Names as one cell; "-" for none."""
    return " ".join(names) or "-"


class Output:
    """Writes a command's answer to stdout: as JSON, or for people."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json

    def message(self, message: Message) -> None:
        """Prints a response in proto JSON: lowerCamelCase names, UTC timestamps, 64-bit numbers as strings.

        Fields without presence are always printed, so scripts need not test for them.
        """
        self.data(as_data(message))

    def data(self, value: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> None:
        """Prints JSON: an object or a list of objects. It is ASCII, so it cannot hold a terminal's control sequence."""
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
        cells = [[_cell(value) for value in row] for row in rows]
        if not cells and empty:
            self.line(empty)
        elif _on_terminal():
            _draw_table(columns, cells)
        else:
            _write_table(columns, cells)

    def pairs(self, rows: Iterable[tuple[str, str]]) -> None:
        """Prints names and their values, one pair a line."""
        pairs = list(rows)
        width = max((columns_of(name) for name, _ in pairs), default=0)
        for name, value in pairs:
            self.line(f"{pad(name, width)}  {value}".rstrip())

    def note(self, text: str) -> None:
        """Prints a remark for people on stderr. With --json it prints nothing."""
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
    # rich takes 50 ms to load, so it is loaded only for a table on a terminal.
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    widths = _column_widths(columns, rows, console.width)
    if not widths:
        _draw_value_per_line(columns, rows)
        return
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for place, width in widths.items():
        table.add_column(columns[place].title, width=width, no_wrap=columns[place].whole, overflow="fold")
    for row in rows:
        # Text, not str: square brackets in a name are not markup.
        table.add_row(*(Text(row[place].text, style=row[place].style) for place in widths))
    console.print(table)


def _draw_value_per_line(columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> None:
    """Prints each value on its own line, for a terminal that is too narrow for a table."""
    width = max(columns_of(column.title) for column in columns)
    for number, row in enumerate(rows):
        if number:
            _draw_line("", "")
        for column, cell in zip(columns, row, strict=True):
            _draw_line(f"{pad(column.title, width)}  {cell.text}", cell.style)


def _column_widths(columns: Sequence[Column], rows: Sequence[Sequence[Cell]], terminal_width: int) -> dict[int, int]:
    """The places of the columns to show, with their widths, so that no cell is cut. {} if no table fits.

    As many optional columns are shown as fit. If the rest is still too wide, its texts are folded: between words first,
    and within words only if that is not enough.
    """
    texts = [[column.title, *(row[place].text for row in rows)] for place, column in enumerate(columns)]
    full = [max(column.width, *map(columns_of, texts[place])) for place, column in enumerate(columns)]
    shown = _columns_that_fit(columns, full, terminal_width)
    folded_between_words = {
        place: full[place]
        if columns[place].whole
        else max(columns_of(word) for text in texts[place] for word in (text.split() or [""]))
        for place in shown
    }
    folded_within_words = {
        place: width if columns[place].whole else min(width, _MIN_FOLDED_WIDTH)
        for place, width in folded_between_words.items()
    }
    widths = {place: full[place] for place in shown}
    for least in (folded_between_words, folded_within_words):
        while _total(widths.values()) > terminal_width:
            # Narrow the widest column that can be narrowed.
            widest = max(widths, key=lambda place: widths[place] if widths[place] > least[place] else 0)
            if widths[widest] <= least[widest]:
                break
            widths[widest] -= 1
    return widths if _total(widths.values()) <= terminal_width else {}


def _columns_that_fit(columns: Sequence[Column], full: Sequence[int], terminal_width: int) -> list[int]:
    """The places of the columns to show: all that are not optional, and as many others as fit when texts are folded."""
    needed = [
        full[place]
        if column.whole
        else max(columns_of(column.title), column.width, min(full[place], _FOLDABLE_FROM_WIDTH))
        for place, column in enumerate(columns)
    ]
    shown = [place for place, column in enumerate(columns) if not column.optional]
    for place in sorted(set(range(len(columns))) - set(shown), key=lambda candidate: columns[candidate].optional):
        if _total(needed[other] for other in (*shown, place)) > terminal_width:
            break
        shown.append(place)
    return sorted(shown)


def _total(widths: Iterable[int]) -> int:
    """The width of a table with columns of these widths."""
    listed = list(widths)
    return sum(listed) + _GAP_WIDTH * (len(listed) - 1)


def _draw_line(text: str, style: str) -> None:
    from rich.console import Console
    from rich.text import Text

    Console(highlight=False, soft_wrap=True).print(Text(text, style=style))
