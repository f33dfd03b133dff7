"""`python -m chaos`: plays plans until the time is up, and says whether the promises were kept.

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
from chaos.history import read_history
from chaos.mutations import BUGS
from chaos.plan import Plan, draw_plan
from chaos.replay import UnreadablePlan, command, read_plan, write_plan
from chaos.report import Outcome, Shown, figures_of, print_outcome, print_total, write_outcome
from chaos.run import names_of, play
from chaos.shapes import draw_shape
from chaos.system.world import Shape
from localmesh.errors import LocalMeshError

_ROUND: Final = 180.0
"""Seconds of one run at most: what etcd and the checker hold stays small, and every run begins with a new mesh."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs; the exit code."""
    options = parse(arguments)
    console = Console()
    try:
        runs = drawn(options) if options.replay is None else [read_plan(options.replay)]
    except (OSError, UnreadablePlan) as error:
        console.print(f"[bold red]the test bed failed:[/] {error}")
        return 2
    outcomes: list[Outcome] = []
    broken_off = False
    try:
        for plan, shape in runs:
            outcome = _round(console, options, plan, shape)
            print_outcome(console, outcome)
            outcomes.append(outcome)
            if outcome.kept and not options.keep:
                shutil.rmtree(outcome.folder, ignore_errors=True)
    except LocalMeshError as error:
        console.print(f"[bold red]the test bed failed:[/] {error}")
        broken_off = True
    except KeyboardInterrupt:
        console.print("stopped; what was played so far:")
    failed = [outcome.seed for outcome in outcomes if not outcome.kept]
    total = print_total(console, outcomes, failed)
    summary = {
        "etcd": sorted({outcome.etcd for outcome in outcomes}),
        "seeds": [outcome.seed for outcome in outcomes],
        "failed": failed,
        "total": total.plain(),
    }
    options.folder.mkdir(parents=True, exist_ok=True)
    (options.folder / "total.json").write_text(json.dumps(summary, indent=1) + "\n")
    return 2 if broken_off else 1 if failed else 0


def drawn(options: argparse.Namespace) -> Iterable[tuple[Plan, Shape]]:
    """One run after another, until the time is up."""
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1_000_000)
    seconds = options.minutes * 60
    rounds = max(1, round(seconds / _ROUND))
    for number in range(rounds):
        shape = draw_shape(seed + number, pace=options.pace)
        if options.plant:
            shape = replace(shape, plant=_planted(options.plant, shape))
        yield draw_plan(seed + number, seconds / rounds, names_of(shape), without=options.without), shape


def _round(console: Console, options: argparse.Namespace, plan: Plan, shape: Shape) -> Outcome:
    again = command(plan, shape, planted=options.plant, without=options.without)
    folder: Path = options.folder / str(plan.seed)
    if options.replay is not None:
        # What the first run left is what is looked into.
        again = f"python -m chaos --replay {options.replay}"
        folder = options.folder / f"{plan.seed}-again"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_plan(folder / "plan.json", plan, shape)
    shown = Shown(f"seed {plan.seed}")
    with Live(shown, console=console, refresh_per_second=4, transient=True):

        def tell(progress: object) -> None:
            shown.progress = progress  # type: ignore[assignment]

        progress = play(plan, shape, folder, tell)
        progress.state = "checking"
        verdicts = check(read_history(folder / "history"))
    outcome = Outcome(
        plan.seed, plan.seconds, folder, verdicts, figures_of(progress, verdicts), again, progress.etcd, shape
    )
    write_outcome(folder / "report.json", outcome)
    return outcome


def _planted(wanted: Sequence[str], shape: Shape) -> dict[str, tuple[str, ...]]:
    """Bugs by part, of "bug@part" or just "bug", which is put into every process of ours."""
    plant: dict[str, tuple[str, ...]] = {}
    for one in wanted:
        bug, _, part = one.partition("@")
        for name in [part] if part else [*shape.auth_names, *shape.node_names]:
            plant[name] = (*plant.get(name, ()), bug)
    return plant


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """What is asked for on the command line."""
    parser = argparse.ArgumentParser(prog="chaos", description="plays faults on a mesh, and checks what it promises")
    parser.add_argument("--seed", type=int, help="the first run's seed; the next ones take the numbers after it")
    parser.add_argument("--minutes", type=float, default=3.0, help="how long in all; runs last 3 minutes at most")
    parser.add_argument("--pace", type=float, default=1.0, help="how much the clients do")
    parser.add_argument("--folder", type=Path, default=Path("build/chaos"), help="where histories and logs go")
    parser.add_argument("--keep", action="store_true", help="keep the folders of runs in which all went well, too")
    parser.add_argument(
        "--plant", action="append", default=[], metavar="BUG[@PART]", help=f"put a bug in: {', '.join(BUGS)}"
    )
    parser.add_argument("--without", action="append", default=[], choices=list(KINDS), help="a kind of fault to omit")
    parser.add_argument("--replay", type=Path, metavar="PLAN.JSON", help="play a run's saved plan, and draw none")
    options = parser.parse_args(arguments)
    if options.minutes <= 0 or options.pace <= 0:
        parser.error("--minutes and --pace must be above 0")
    if options.replay is not None and (options.seed is not None or options.plant or options.without):
        parser.error("--replay plays what was saved: it takes no --seed, --plant or --without")
    return options


if __name__ == "__main__":
    assert threading.current_thread() is threading.main_thread()  # noqa: S101 - processes are tied to this thread
    sys.exit(main())
