"""The reports of a run: a table for people, and build/bench.json for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from bench.results.statistics import Row

__all__ = ["markdown", "show", "write"]

_HEADINGS = ("", "what", "ours", "peer", "unit", "ratio", "target", "±")
_GROUPS: Mapping[str, str] = {
    "verification": "verification without a network",
    "calls": "the cost of a call",
    "streams": "streams",
    "client": "the client's side",
    "issuing": "issuing, against its limits",
    "revocation": "revocation and rotation",
    "growth": "growth",
    "hostile": "hostile load",
    "starting": "starting",
}


def show(rows: Sequence[Row], console: Console) -> None:
    """Prints the table."""
    table = Table(box=box.SIMPLE_HEAD, header_style="dim", pad_edge=False)
    for heading in _HEADINGS:
        table.add_column(
            heading, justify="left" if heading in {"", "what", "unit"} else "right", no_wrap=heading != "what"
        )
    group = ""
    for row in rows:
        if row.group != group:
            group = row.group
            table.add_section()
            table.add_row("", f"[bold]{_GROUPS.get(group, group)}[/]")
        mark = {True: "[green]✓[/]", False: "[red]✗[/]", None: "[yellow]?[/]" if row.target is not None else ""}[
            row.met
        ]
        name = row.name + (f"\n[dim]{row.note}[/]" if row.note else "")
        table.add_row(mark, name, *_cells(row))
    console.print(table)
    met, missed = (sum(row.met is verdict for row in rows) for verdict in (True, False))
    unknown = sum(row.target is not None and row.met is None for row in rows)
    console.print(f"targets: [green]{met} met[/], [red]{missed} missed[/], [yellow]{unknown} undecided[/]")


def write(rows: Sequence[Row], path: Path) -> None:
    """Writes the rows to a file, as a JSON list of objects."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps([row.as_json() for row in rows], indent=1, ensure_ascii=False) + "\n")
    temporary.replace(path)


def markdown(rows: Iterable[Row]) -> str:
    """The table in Markdown, as in docs/performance.md."""
    lines: list[str] = []
    group = ""
    for row in rows:
        if row.group != group:
            group = row.group
            lines += ["", f"### {_GROUPS.get(group, group).capitalize()}", ""]
            lines += ["| what | ours | peer | unit | ratio | target | spread |", "|---|---:|---:|---|---:|---:|---:|"]
        name = row.name + (f" ({row.note})" if row.note else "")
        mark = {True: " ✓", False: " ✗", None: " ?" if row.target is not None else ""}[row.met]
        ours, peer, unit, ratio, target, spread = _cells(row)
        lines.append(f"| {name} | {ours} | {peer} | {unit} | {ratio} | {target}{mark} | {spread} |")
    return "\n".join(lines).strip() + "\n"


def _cells(row: Row) -> tuple[str, str, str, str, str, str]:
    target = "" if row.target is None else f"{'≥' if row.higher else '≤'} {row.target:g}"
    spread = "" if row.spread is None else f"{row.spread:.0%}"
    ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
    return _figure(row.ours), _figure(row.peer), row.unit, ratio, target, spread


def _figure(value: float | None) -> str:
    if value is None:
        return "-"
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"
