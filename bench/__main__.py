"""`python -m bench`: measures, shows a table, and writes build/bench.json and two plots."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from bench.environment import BenchEnvironment, BenchFailed
from bench.load.http2 import CallFailed
from bench.machine import LOAD_CORES, describe, pin
from bench.results.report import markdown, show, write
from bench.results.statistics import Row
from bench.scale import FULL, QUICK, SMOKE
from bench.suite import SuiteContext
from bench.suites import SUITES
from interceptors.errors import CredmeshError

__all__ = ["main"]

_SCALES: Final = {scale.name: scale for scale in (FULL, QUICK, SMOKE)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark and returns the exit code."""
    options = _options(arguments)
    scale = _SCALES[options.scale]
    console = Console(width=None if sys.stdout.isatty() else 160)
    started_at, date = time.monotonic(), datetime.now(UTC)
    about: dict[str, object] = {"date": date.isoformat(timespec="seconds"), "scale": scale.name, **describe()}
    pin(LOAD_CORES)
    rows: list[Row] = []
    seconds_by_group: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="credmesh-bench-") as folder, _progress(console) as progress:
        try:
            with BenchEnvironment(Path(folder)) as environment:
                context = SuiteContext(environment, scale, _begin_progress_on(progress))
                for name in options.only or SUITES:
                    suite_started_at = time.monotonic()
                    rows += SUITES[name](context)
                    seconds_by_group[name] = round(time.monotonic() - suite_started_at, 1)
        except (BenchFailed, CallFailed, CredmeshError) as error:
            progress.stop()
            console.print(f"[red bold]the benchmark cannot go on:[/] {error}", highlight=False)
            _show_logs(Path(folder), console)
            return 1
    about |= {"seconds": round(time.monotonic() - started_at, 1), "seconds_by_group": seconds_by_group}
    out: Path = options.out
    write(rows, out / "bench.json")
    (out / "bench-run.json").write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n")
    (out / "bench.md").write_text(markdown(rows))
    show(rows, console)
    console.print(
        f"{scale.name} run of {about['seconds']} s on {about['cpu']}, {about['cores']} cores", highlight=False
    )
    console.print(f"[dim]{out / 'bench.json'} {_plot(rows, out)}[/]", highlight=False)
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--scale", choices=sorted(_SCALES), default="full", help="how much to measure")
    parser.add_argument(
        "--only", nargs="+", choices=list(SUITES), metavar="GROUP", help=f"some of: {', '.join(SUITES)}"
    )
    parser.add_argument("--out", type=Path, default=Path("build"), help="the folder of the results")
    return parser.parse_args(arguments)


def _progress(console: Console) -> Progress:
    # Without auto_refresh, progress is drawn between rounds only. A thread that draws would take CPU from the load
    # generator during the rounds.
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        auto_refresh=False,
        transient=True,
    )


def _begin_progress_on(progress: Progress) -> Callable[[str, int], Callable[[], None]]:
    def begin_progress(description: str, steps: int) -> Callable[[], None]:
        for task in progress.task_ids:
            progress.remove_task(task)
        task = progress.add_task(description, total=steps)
        progress.refresh()

        def tick() -> None:
            progress.advance(task)
            progress.refresh()

        return tick

    return begin_progress


def _plot(rows: Sequence[Row], out: Path) -> str:
    try:
        from bench.results.plots import plot
    except ImportError:
        return "(no plots: pip install 'credmesh[bench]' brings matplotlib)"
    return " ".join(str(path) for path in plot(rows, out))


def _show_logs(folder: Path, console: Console) -> None:
    for log in sorted(folder.glob("*.log")):
        lines = log.read_text(errors="replace").splitlines()[-8:]
        if lines:
            console.print(f"[dim]{log.name}:[/]", *lines, sep="\n  ", highlight=False, markup=False)


if __name__ == "__main__":
    sys.exit(main())
