"""`python -m bench`: measures, shows a table, and writes build/bench.json and plots."""

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

from bench.load.http2 import CallFailed
from bench.machine import LOAD_CORES, describe, pin
from bench.results.report import markdown, show, write
from bench.results.statistics import Row
from bench.run import Run
from bench.scale import FULL, QUICK, SMOKE
from bench.suites import ROOMS
from bench.world import BenchFailed, World
from interceptors.errors import CredmeshError

__all__ = ["main"]

_SCALES: Final = {scale.name: scale for scale in (FULL, QUICK, SMOKE)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; the exit code."""
    options = _options(arguments)
    scale = _SCALES[options.scale]
    console = Console(width=None if sys.stdout.isatty() else 160)
    began, when = time.monotonic(), datetime.now(UTC)
    about: dict[str, object] = {"date": when.isoformat(timespec="seconds"), "scale": scale.name, **describe()}
    pin(LOAD_CORES)
    rows: list[Row] = []
    took: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="credmesh-bench-") as folder, _progress(console) as progress:
        try:
            with World(Path(folder)) as world:
                for name in options.only or ROOMS:
                    entered = time.monotonic()
                    rows += ROOMS[name](Run(world, scale, _beginner(progress)))
                    took[name] = round(time.monotonic() - entered, 1)
        except (BenchFailed, CallFailed, CredmeshError) as error:
            progress.stop()
            console.print(f"[red bold]the benchmark cannot go on:[/] {error}", highlight=False)
            _show_logs(Path(folder), console)
            return 1
    about |= {"seconds": round(time.monotonic() - began, 1), "seconds_by_group": took}
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
    parser.add_argument("--only", nargs="+", choices=list(ROOMS), metavar="GROUP", help=f"some of: {', '.join(ROOMS)}")
    parser.add_argument("--out", type=Path, default=Path("build"), help="where the results go")
    return parser.parse_args(arguments)


def _progress(console: Console) -> Progress:
    # Drawn between rounds only: a thread that draws would take its share of the load generator's core.
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


def _beginner(progress: Progress) -> Callable[[str, int], Callable[[], None]]:
    def begin(what: str, steps: int) -> Callable[[], None]:
        for task in progress.task_ids:
            progress.remove_task(task)
        task = progress.add_task(what, total=steps)
        progress.refresh()

        def tick() -> None:
            progress.advance(task)
            progress.refresh()

        return tick

    return begin


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
