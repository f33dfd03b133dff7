"""What is left of a run for programs, and for whoever looks into it."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from chaos.checker import INVARIANTS, Verdict
from chaos.report import Figures, Outcome, print_outcome, write_outcome
from chaos.system.world import Shape


@pytest.fixture
def outcome(tmp_path: Path) -> Outcome:
    verdicts = {name: Verdict() for name in INVARIANTS}
    verdicts["I1"].violate("node-1 accepted a revoked credential", {"op": "call", "at": "node-1"})
    return Outcome(
        7, 200.0, tmp_path, verdicts, Figures(), "make chaos SEED=7 MINUTES=3.333333", "3.5.17", Shape(freshness=6.0)
    )


def test_a_failed_run_says_how_to_play_it_again_and_on_which_etcd_it_was(outcome: Outcome) -> None:
    said = io.StringIO()
    print_outcome(Console(file=said, width=200), outcome)
    assert "etcd 3.5.17, freshness 6 s" in said.getvalue()
    assert "make chaos SEED=7 MINUTES=3.333333\n" in said.getvalue()
    assert f"--replay {outcome.folder}/plan.json\n" in said.getvalue()


def test_programs_are_told_the_same(outcome: Outcome, tmp_path: Path) -> None:
    write_outcome(tmp_path / "report.json", outcome)
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["etcd"], report["again"]) == ("3.5.17", outcome.again)
    assert report["shape"]["freshness"] == 6.0
    assert (report["kept"], report["verdicts"]["I1"]["violated"]) == (False, 1)
