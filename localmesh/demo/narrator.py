"""How the story is told, and what in it went wrong."""

from __future__ import annotations

from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

__all__ = ["Misbehaved", "Teller"]

_INDENT: Final = "   "


class Misbehaved(Exception):
    """A step cannot go on: what it stands on is not there. The text says what happened."""


class Teller:
    """Tells the story to a console and remembers what misbehaved."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.wrong: list[str] = []
        self._chapter = 0

    def chapter(self, title: str) -> None:
        """Begins a chapter."""
        self._chapter += 1
        self.console.print(f"\n[bold]{self._chapter}  {title}[/]")

    def tell(self, text: str) -> None:
        """Something that is neither good nor bad."""
        self.console.print(f"{_INDENT}[dim]·[/] {text}")

    def check(self, good: bool, text: str, *, otherwise: str = "") -> bool:
        """Something that has to be so; `otherwise` says what was seen instead. Returns `good`."""
        if good:
            self.console.print(f"{_INDENT}[green]✓[/] {text}")
        else:
            seen = f" — {escape(otherwise)}" if otherwise else ""
            self.console.print(f"{_INDENT}[red bold]✗ not so:[/] {text}[red]{seen}[/]", soft_wrap=True)
            self.wrong.append(f"{text}{seen}")
        return good

    def table(self, headings: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
        """A small table within a chapter."""
        table = Table(box=None, pad_edge=False, header_style="dim")
        table.add_column(" ")
        for heading in headings:
            table.add_column(heading)
        for row in rows:
            table.add_row(" ", *row)
        self.console.print(table)
