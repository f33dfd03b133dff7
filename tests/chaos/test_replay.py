"""A run that failed is played again: the same plan is drawn from what was printed, or read from what was saved."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from chaos.__main__ import drawn, main, parse
from chaos.replay import UnreadablePlan, command, read_plan, write_plan


def arguments_of(printed: str) -> list[str]:
    """What the Makefile makes of it."""
    make, chaos, *words = shlex.split(printed)
    assert (make, chaos) == ("make", "chaos")
    given = dict(word.split("=", 1) for word in words)
    planted = [word for bug in given.get("PLANT", "").split() for word in ("--plant", bug)]
    return ["--seed", given["SEED"], "--minutes", given["MINUTES"], *planted, *shlex.split(given.get("ARGS", ""))]


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
def test_what_is_printed_draws_the_very_same_plans(arguments: list[str]) -> None:
    """A third of ten minutes is no round number, and a plan of another length is another plan."""
    options = parse(arguments)
    for plan, shape in drawn(options):
        printed = command(plan, shape, planted=options.plant, without=options.without)
        assert list(drawn(parse(arguments_of(printed)))) == [(plan, shape)]


def test_a_saved_plan_is_read_as_it_was(tmp_path: Path) -> None:
    [(plan, shape)] = drawn(parse(["--seed", "7", "--minutes", "1", "--plant", "epoch-ignored"]))
    shape = replace(shape, nodes=("aio",), token_lifetime=4.5)
    write_plan(tmp_path / "plan.json", plan, shape)
    again, shape_again = read_plan(tmp_path / "plan.json")
    assert shape_again == shape
    write_plan(tmp_path / "again.json", again, shape_again)
    assert (tmp_path / "again.json").read_text() == (tmp_path / "plan.json").read_text()
    assert [fault.at for fault in again.faults] == [fault.at for fault in plan.faults]


@pytest.mark.parametrize("text", ["", "{}", json.dumps({"plan": {"seed": 1}, "shape": {}})])
def test_what_is_no_plan_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(UnreadablePlan, match=r"plan\.json holds no plan"):
        read_plan(path)
    assert main(["--replay", str(path), "--folder", str(tmp_path)]) == 2
