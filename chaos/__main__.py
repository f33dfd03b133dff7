"""`python -m chaos`: carries out plans until the time is up, and reports whether the promises were kept.

Exit codes: 0 all were kept, 1 one was broken, 2 the test bed itself failed.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import threading
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.live import Live

from chaos.checker import check
from chaos.faults import KINDS
from chaos.mutations import MUTATIONS
from chaos.operation_log import read_operation_log
from chaos.plan import Plan, draw_plan
from chaos.replay import UnreadablePlan, command, read_plan, write_plan
from chaos.report import ProgressView, RunResult, figures_of, print_result, print_total, write_result
from chaos.run import part_names, run_plan
from chaos.shapes import draw_shape
from chaos.system.world import Shape
from localmesh.errors import LocalMeshError

_MAX_RUN_SECONDS: Final = 180.0
"""A new mesh for each run keeps etcd and the checker small."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the plans. Returns the exit code."""
    options = parse(arguments)
    console = Console()
    try:
        runs = draw_runs(options) if options.replay is None else [read_plan(options.replay)]
    except (OSError, UnreadablePlan) as error:
        console.print(f"[bold red]the test bed failed:[/] {error}")
        return 2
    results: list[RunResult] = []
    broken_off = False
    try:
        for plan, shape in runs:
            result = _run(console, options, plan, shape)
            print_result(console, result)
            results.append(result)
            if result.kept and not options.keep:
                shutil.rmtree(result.folder, ignore_errors=True)
    except LocalMeshError as error:
        console.print(f"[bold red]the test bed failed:[/] {error}")
        broken_off = True
    except KeyboardInterrupt:
        console.print("stopped; the runs so far:")
    failed = [result.seed for result in results if not result.kept]
    total = print_total(console, results, failed)
    summary = {
        "etcd": sorted({result.etcd for result in results}),
        "seeds": [result.seed for result in results],
        "failed": failed,
        "total": total.plain(),
    }
    options.folder.mkdir(parents=True, exist_ok=True)
    (options.folder / "total.json").write_text(json.dumps(summary, indent=1) + "\n")
    return 2 if broken_off else 1 if failed else 0


def draw_runs(options: argparse.Namespace) -> Iterable[tuple[Plan, Shape]]:
    """Draws one run after another, until the time is up."""
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1_000_000)
    seconds = options.minutes * 60
    rounds = max(1, round(seconds / _MAX_RUN_SECONDS))
    for number in range(rounds):
        shape = draw_shape(seed + number, pace=options.pace)
        if options.plant:
            shape = replace(shape, mutations=_mutations_by_part(options.plant, shape))
        yield draw_plan(seed + number, seconds / rounds, part_names(shape), without=options.without), shape


def _run(console: Console, options: argparse.Namespace, plan: Plan, shape: Shape) -> RunResult:
    again = command(plan, shape, mutations=options.plant, without=options.without)
    folder: Path = options.folder / str(plan.seed)
    if options.replay is not None:
        # Another folder, because the first run's folder is still needed.
        again = f"python -m chaos --replay {options.replay}"
        folder = options.folder / f"{plan.seed}-again"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_plan(folder / "plan.json", plan, shape)
    view = ProgressView(f"seed {plan.seed}")
    with Live(view, console=console, refresh_per_second=4, transient=True):

        def show(progress: object) -> None:
            view.progress = progress  # type: ignore[assignment]

        progress = run_plan(plan, shape, folder, show)
        progress.state = "checking"
        verdicts = check(read_operation_log(folder / "operation_log"))
    result = RunResult(
        plan.seed, plan.seconds, folder, verdicts, figures_of(progress, verdicts), again, progress.etcd, shape
    )
    write_result(folder / "report.json", result)
    return result


def _mutations_by_part(wanted: Sequence[str], shape: Shape) -> dict[str, tuple[str, ...]]:
    """Mutations by part, from "mutation@part", or "mutation" for every process of credmesh."""
    mutations: dict[str, tuple[str, ...]] = {}
    for one in wanted:
        mutation, _, part = one.partition("@")
        for name in [part] if part else [*shape.auth_names, *shape.node_names]:
            mutations[name] = (*mutations.get(name, ()), mutation)
    return mutations


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(prog="chaos", description="causes faults in a mesh, and checks its promises")
    parser.add_argument("--seed", type=int, help="the first run's seed; the next ones take the numbers after it")
    parser.add_argument(
        "--minutes", type=float, default=3.0, help="the length of all runs together; one lasts 3 minutes at most"
    )
    parser.add_argument("--pace", type=float, default=1.0, help="how much the clients do; 1 is the default load")
    parser.add_argument(
        "--folder", type=Path, default=Path("build/chaos"), help="the folder of operation logs and other logs"
    )
    parser.add_argument("--keep", action="store_true", help="also keep the folders of runs without a violation")
    parser.add_argument(
        "--plant", action="append", default=[], metavar="BUG[@PART]", help=f"inject a mutation: {', '.join(MUTATIONS)}"
    )
    parser.add_argument("--without", action="append", default=[], choices=list(KINDS), help="a kind of fault to omit")
    parser.add_argument("--replay", type=Path, metavar="PLAN.JSON", help="carry out a run's saved plan")
    options = parser.parse_args(arguments)
    if options.minutes <= 0 or options.pace <= 0:
        parser.error("--minutes and --pace must be above 0")
    if options.replay is not None and (options.seed is not None or options.plant or options.without):
        parser.error("--replay takes the saved plan: it cannot be combined with --seed, --plant or --without")
    return options


if __name__ == "__main__":
    assert threading.current_thread() is threading.main_thread()  # noqa: S101 - processes are tied to this thread
    sys.exit(main())
