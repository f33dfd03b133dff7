"""Repeating a run: the command that draws the same plan, and saved plans."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from chaos.plan import Calm, Plan, Planned
from chaos.system.world import Shape

__all__ = ["UnreadablePlan", "command", "read_plan", "write_plan"]


class UnreadablePlan(ValueError):
    """The file does not contain a plan of this version of the test bed."""


def command(plan: Plan, shape: Shape, *, mutations: Sequence[str] = (), without: Sequence[str] = ()) -> str:
    """The `make chaos` command that draws this plan.

    mutations, without: the values of --plant and --without
    """
    minutes = f"{plan.seconds / 60:.6f}".rstrip("0").rstrip(".")
    words = ["make", "chaos", f"SEED={plan.seed}", f"MINUTES={minutes}"]
    if mutations:
        words.append(f"PLANT={' '.join(mutations)}")
    options = [] if shape.pace == 1.0 else ["--pace", f"{shape.pace!r}"]
    for kind in without:
        options += ["--without", kind]
    if options:
        words.append(f"ARGS={shlex.join(options)}")
    return " ".join(word if word == shlex.quote(word) else _quoted(word) for word in words)


def write_plan(path: Path, plan: Plan, shape: Shape) -> None:
    """Saves a plan, and the shape of its world."""
    path.write_text(json.dumps({"plan": asdict(plan), "shape": asdict(shape)}, indent=1) + "\n")


def read_plan(path: Path) -> tuple[Plan, Shape]:
    """Reads what `write_plan` saved. Raises OSError, or UnreadablePlan with the cause."""
    try:
        saved = json.loads(path.read_text())
        plan, shape = saved["plan"], saved["shape"]
        faults = tuple(Planned(**fault) for fault in plan["faults"])
        calms = tuple(Calm(**calm) for calm in plan["calms"])
        return Plan(plan["seed"], plan["seconds"], faults, calms), _shape(shape)
    except (ValueError, KeyError, TypeError) as error:
        raise UnreadablePlan(
            f"{path} holds no plan of this version of the test bed ({error!r}); give the plan.json of a run"
        ) from error


def _shape(saved: dict[str, Any]) -> Shape:
    mutations = {part: tuple(names) for part, names in saved["mutations"].items()}
    return Shape(**{**saved, "nodes": tuple(saved["nodes"]), "mutations": mutations})


def _quoted(word: str) -> str:
    name, _, value = word.partition("=")
    return f"{name}={shlex.quote(value)}"
