"""The display of a run's progress, and the report of its result."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

from chaos.checker import INVARIANTS, Verdict
from chaos.run import Progress
from chaos.system.world import Shape

__all__ = ["Figures", "ProgressView", "RunResult", "print_result", "print_total", "write_result"]

_MAX_SHOWN_VIOLATIONS: Final = 5


@dataclass
class Figures:
    """How much a run has put to the test."""

    seconds: float = 0.0
    revocations: int = 0
    receipts: int = 0
    rotations: int = 0
    refreshes: int = 0
    calls: int = 0
    faults: Counter[str] = field(default_factory=Counter)

    def add(self, other: Figures) -> None:
        """Adds another run's figures."""
        self.seconds += other.seconds
        self.revocations += other.revocations
        self.receipts += other.receipts
        self.rotations += other.rotations
        self.refreshes += other.refreshes
        self.calls += other.calls
        self.faults += other.faults

    def plain(self) -> dict[str, Any]:
        """The figures as JSON values."""
        return {name: dict(value) if name == "faults" else value for name, value in vars(self).items()}


@dataclass(slots=True)
class RunResult:
    """The result of one run.

    again  the command that draws the same plan
    etcd   etcd's version
    shape  the shape of its world
    """

    seed: int
    seconds: float
    folder: Path
    verdicts: Mapping[str, Verdict]
    figures: Figures
    again: str
    etcd: str
    shape: Shape

    @property
    def kept(self) -> bool:
        """Whether every promise was kept."""
        return all(verdict.kept for verdict in self.verdicts.values())


def figures_of(progress: Progress, verdicts: Mapping[str, Verdict]) -> Figures:
    """The figures of a run."""
    counts = progress.counts
    return Figures(
        seconds=progress.elapsed,
        revocations=verdicts["I5"].checked.get("revocations acknowledged", 0),
        receipts=verdicts["I1"].checked.get("receipts", 0),
        rotations=verdicts["I5"].checked.get("rotations acknowledged", 0),
        refreshes=verdicts["I5"].checked.get("refreshes", 0),
        calls=sum(number for name, number in counts.items() if name.startswith("call ")),
        faults=progress.faults,
    )


class ProgressView:
    """The display of a run's progress, for rich's Live."""

    def __init__(self, title: str) -> None:
        self._bar = Bar(
            TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn(compact=True)
        )
        self._task = self._bar.add_task(title, total=None)
        self.progress: Progress | None = None

    def __rich__(self) -> RenderableType:
        progress = self.progress
        if progress is None:
            return self._bar
        self._bar.update(self._task, total=progress.seconds, completed=progress.elapsed)
        counts = progress.counts
        line = Text("  ")
        for name, number in (
            ("calls", sum(n for key, n in counts.items() if key.startswith("call "))),
            ("revocations", counts.get("revoke ok", 0)),
            ("receipts", counts.get("receipt", 0)),
            ("rotations", counts.get("rotate ok", 0)),
            ("refreshes", counts.get("refresh ok", 0)),
            ("faults", progress.faults.total()),
        ):
            line.append(f"{name} ").append(f"{number:,}  ", style="bold")
        active = [Text(f"  ⚡ {fault}", style="yellow") for fault in list(progress.active.values())]
        return Group(self._bar, Text(f"  {progress.state}", style="dim"), line, *active)


def print_result(console: Console, result: RunResult) -> None:
    """Prints the verdicts of one run."""
    bounds = f"freshness {result.shape.freshness:g} s, node lease {result.shape.node_lease} s"
    title = f"seed {result.seed}, {result.seconds:.0f} s, etcd {result.etcd}, {bounds}"
    table = Table(title=title, title_justify="left")
    for column in ("", "promise", "verdict", "put to the test", "undecided"):
        table.add_column(column, overflow="fold")
    for name, verdict in result.verdicts.items():
        text = "[green]kept[/]" if verdict.kept else f"[bold red]broken {verdict.violated} times[/]"
        table.add_row(name, INVARIANTS[name], text, _counted(verdict.checked), _counted(verdict.undecided))
    console.print(table)
    for name, verdict in result.verdicts.items():
        for violation in verdict.violations[:_MAX_SHOWN_VIOLATIONS]:
            console.print(f"[bold red]{name}[/] {violation.what}")
            for record in violation.records:
                console.print("    " + _text(record), markup=False, highlight=False, soft_wrap=True, style="dim")
        if verdict.violated > _MAX_SHOWN_VIOLATIONS:
            console.print(f"[bold red]{name}[/] and {verdict.violated - _MAX_SHOWN_VIOLATIONS} more: see report.json")
    if not result.kept:
        for label, text in (
            ("to draw the same plan", result.again),
            ("to replay the saved plan", f"python -m chaos --replay {result.folder / 'plan.json'}"),
            ("operation log, faults and logs", str(result.folder)),
        ):
            console.print(f"{label}: {text}", markup=False, highlight=False, soft_wrap=True)


def print_total(console: Console, results: Sequence[RunResult], failed: Sequence[int]) -> Figures:
    """Prints the figures of all runs together, and returns them."""
    total = Figures()
    for result in results:
        total.add(result.figures)
    table = Table(title="in total", title_justify="left")
    for column in ("runs", "minutes", "calls", "revocations", "with receipts", "rotations", "refreshes", "faults"):
        table.add_column(column, justify="right")
    numbers = (total.calls, total.revocations, total.receipts, total.rotations, total.refreshes, total.faults.total())
    table.add_row(str(len(results)), f"{total.seconds / 60:.1f}", *(f"{number:,}" for number in numbers))
    console.print(table)
    console.print("faults by kind: " + ", ".join(f"{kind} {number}" for kind, number in sorted(total.faults.items())))
    if failed:
        console.print(f"[bold red]promises were broken with seeds {', '.join(map(str, failed))}[/]")
    else:
        console.print("[bold green]every promise was kept[/]")
    return total


def write_result(path: Path, result: RunResult) -> None:
    """Writes the result as JSON."""
    path.write_text(
        json.dumps(
            {
                "seed": result.seed,
                "seconds": result.seconds,
                "kept": result.kept,
                "again": result.again,
                "etcd": result.etcd,
                "shape": asdict(result.shape),
                "figures": result.figures.plain(),
                "verdicts": {name: _plain(verdict) for name, verdict in result.verdicts.items()},
            },
            indent=1,
        )
        + "\n"
    )


def _plain(verdict: Verdict) -> dict[str, Any]:
    return {
        "kept": verdict.kept,
        "checked": verdict.checked,
        "undecided": verdict.undecided,
        "violated": verdict.violated,
        "violations": [
            {"what": one.what, "records": [_text(record) for record in one.records]} for one in verdict.violations
        ],
    }


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{number:,} {what}" for what, number in counts.items() if number)


def _text(record: Any) -> str:
    return json.dumps(record) if isinstance(record, dict) else str(record)
