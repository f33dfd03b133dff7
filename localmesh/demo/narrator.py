"""Prints the demo's chapters and checks, and collects the checks that failed."""

from __future__ import annotations

from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

__all__ = ["DemoFailed", "Narrator"]

_INDENT: Final = "   "


class DemoFailed(Exception):
    """The demo cannot go on, because a step that later steps need has failed. The text says what happened."""


class Narrator:
    """Prints to a console. `failures` holds the texts of the checks that failed."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.failures: list[str] = []
        self._chapter = 0

    def chapter(self, title: str) -> None:
        """Prints the heading of the next chapter."""
        self._chapter += 1
        self.console.print(f"\n[bold]{self._chapter}  {title}[/]")

    def note(self, text: str) -> None:
        """Prints an information that is not a check."""
        self.console.print(f"{_INDENT}[dim]·[/] {text}")

    def check(self, passed: bool, text: str, *, otherwise: str = "") -> bool:
        """Prints a check and records its failure. `otherwise` says what was observed instead. Returns `passed`."""
        if passed:
            self.console.print(f"{_INDENT}[green]✓[/] {text}")
        else:
            observed = f" — {escape(otherwise)}" if otherwise else ""
            self.console.print(f"{_INDENT}[red bold]✗ failed:[/] {text}[red]{observed}[/]", soft_wrap=True)
            self.failures.append(f"{text}{observed}")
        return passed

    def table(self, headings: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
        """Prints a small table within a chapter."""
        table = Table(box=None, pad_edge=False, header_style="dim")
        table.add_column(" ")
        for heading in headings:
            table.add_column(heading)
        for row in rows:
            table.add_row(" ", *row)
        self.console.print(table)
