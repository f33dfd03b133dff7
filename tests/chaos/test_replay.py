"""A failed run can be repeated: the printed command draws the same plan, and the saved plan can be read."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from chaos.__main__ import draw_runs, main, parse
from chaos.replay import UnreadablePlan, command, read_plan, write_plan


def arguments_of(printed: str) -> list[str]:
    """The arguments that the Makefile makes of a printed command."""
    make, chaos, *words = shlex.split(printed)
    assert (make, chaos) == ("make", "chaos")
    given = dict(word.split("=", 1) for word in words)
    mutations = [word for bug in given.get("PLANT", "").split() for word in ("--plant", bug)]
    return ["--seed", given["SEED"], "--minutes", given["MINUTES"], *mutations, *shlex.split(given.get("ARGS", ""))]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--seed", "7", "--minutes", "3"],
        ["--seed", "7", "--minutes", "10"],
        ["--seed", "7", "--minutes", "0.1"],
        ["--seed", "1", "--minutes", "7.77", "--pace", "0.3", "--without", "restore", "--without", "clock"],
        ["--seed", "1", "--minutes", "1", "--plant", "epoch-ignored@node-1", "--plant", "reuse-is-forgiven"],
    ],
    ids=" ".join,
)
def test_the_printed_command_draws_the_same_plans(arguments: list[str]) -> None:
    """A third of ten minutes is not a round number, and a plan of another length is another plan."""
    options = parse(arguments)
    for plan, shape in draw_runs(options):
        printed = command(plan, shape, mutations=options.plant, without=options.without)
        assert list(draw_runs(parse(arguments_of(printed)))) == [(plan, shape)]


def test_a_saved_plan_is_read_unchanged(tmp_path: Path) -> None:
    [(plan, shape)] = draw_runs(parse(["--seed", "7", "--minutes", "1", "--plant", "epoch-ignored"]))
    shape = replace(shape, nodes=("aio",), token_lifetime=4.5)
    write_plan(tmp_path / "plan.json", plan, shape)
    again, shape_again = read_plan(tmp_path / "plan.json")
    assert shape_again == shape
    write_plan(tmp_path / "again.json", again, shape_again)
    assert (tmp_path / "again.json").read_text() == (tmp_path / "plan.json").read_text()
    assert [fault.at for fault in again.faults] == [fault.at for fault in plan.faults]


@pytest.mark.parametrize("text", ["", "{}", json.dumps({"plan": {"seed": 1}, "shape": {}})])
def test_a_file_without_a_plan_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(UnreadablePlan, match=r"plan\.json holds no plan"):
        read_plan(path)
    assert main(["--replay", str(path), "--folder", str(tmp_path)]) == 2
