"""What a person sees: progress while a run lasts, and what came out of it."""

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

__all__ = ["Figures", "Outcome", "Shown", "print_outcome", "print_total", "write_outcome"]

_SHOWN_VIOLATIONS: Final = 5


@dataclass
class Figures:
    """How much there was of what the test bed is for."""

    seconds: float = 0.0
    revocations: int = 0
    receipts: int = 0
    rotations: int = 0
    refreshes: int = 0
    calls: int = 0
    faults: Counter[str] = field(default_factory=Counter)

    def add(self, other: Figures) -> None:
        """Adds up."""
        self.seconds += other.seconds
        self.revocations += other.revocations
        self.receipts += other.receipts
        self.rotations += other.rotations
        self.refreshes += other.refreshes
        self.calls += other.calls
        self.faults += other.faults

    def plain(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {name: dict(value) if name == "faults" else value for name, value in vars(self).items()}


@dataclass(slots=True)
class Outcome:
    """What came out of one run.

    again  the command that draws its plan anew
    etcd   the version of etcd that it was played on
    shape  the world that it was played in
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


class Shown:
    """A run while it lasts, for rich's Live: it is rendered anew as often as Live likes."""

    def __init__(self, title: str) -> None:
        self._title = title
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
        active = [Text(f"  ⚡ {said}", style="yellow") for said in list(progress.active.values())]
        return Group(self._bar, Text(f"  {progress.state}", style="dim"), line, *active)


def print_outcome(console: Console, outcome: Outcome) -> None:
    """The verdicts of one run."""
    bounds = f"freshness {outcome.shape.freshness:g} s, node lease {outcome.shape.node_lease} s"
    title = f"seed {outcome.seed}, {outcome.seconds:.0f} s, etcd {outcome.etcd}, {bounds}"
    table = Table(title=title, title_justify="left")
    for column in ("", "promise", "verdict", "put to the test", "left open"):
        table.add_column(column, overflow="fold")
    for name, verdict in outcome.verdicts.items():
        said = "[green]kept[/]" if verdict.kept else f"[bold red]broken {verdict.violated} times[/]"
        table.add_row(name, INVARIANTS[name], said, _counted(verdict.checked), _counted(verdict.undecided))
    console.print(table)
    for name, verdict in outcome.verdicts.items():
        for violation in verdict.violations[:_SHOWN_VIOLATIONS]:
            console.print(f"[bold red]{name}[/] {violation.what}")
            for record in violation.records:
                console.print("    " + _text(record), markup=False, highlight=False, soft_wrap=True, style="dim")
        if verdict.violated > _SHOWN_VIOLATIONS:
            console.print(f"[bold red]{name}[/] and {verdict.violated - _SHOWN_VIOLATIONS} more: see report.json")
    if not outcome.kept:
        for what, said in (
            ("to draw the same plan", outcome.again),
            ("to play this one", f"python -m chaos --replay {outcome.folder / 'plan.json'}"),
            ("history, faults and logs", str(outcome.folder)),
        ):
            console.print(f"{what}: {said}", markup=False, highlight=False, soft_wrap=True)


def print_total(console: Console, outcomes: Sequence[Outcome], failed: Sequence[int]) -> Figures:
    """The figures of all runs; they are returned too."""
    total = Figures()
    for outcome in outcomes:
        total.add(outcome.figures)
    table = Table(title="in total", title_justify="left")
    for column in ("runs", "minutes", "calls", "revocations", "with receipts", "rotations", "refreshes", "faults"):
        table.add_column(column, justify="right")
    numbers = (total.calls, total.revocations, total.receipts, total.rotations, total.refreshes, total.faults.total())
    table.add_row(str(len(outcomes)), f"{total.seconds / 60:.1f}", *(f"{number:,}" for number in numbers))
    console.print(table)
    console.print("faults by kind: " + ", ".join(f"{kind} {number}" for kind, number in sorted(total.faults.items())))
    if failed:
        console.print(f"[bold red]promises were broken with seeds {', '.join(map(str, failed))}[/]")
    else:
        console.print("[bold green]every promise was kept[/]")
    return total


def write_outcome(path: Path, outcome: Outcome) -> None:
    """The same for programs."""
    path.write_text(
        json.dumps(
            {
                "seed": outcome.seed,
                "seconds": outcome.seconds,
                "kept": outcome.kept,
                "again": outcome.again,
                "etcd": outcome.etcd,
                "shape": asdict(outcome.shape),
                "figures": outcome.figures.plain(),
                "verdicts": {name: _plain(verdict) for name, verdict in outcome.verdicts.items()},
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
