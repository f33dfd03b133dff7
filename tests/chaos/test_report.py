"""The report of a run, for people and for programs."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from chaos.checker import INVARIANTS, Verdict
from chaos.report import Figures, RunResult, print_result, write_result
from chaos.system.world import Shape


@pytest.fixture
def result(tmp_path: Path) -> RunResult:
    verdicts = {name: Verdict() for name in INVARIANTS}
    verdicts["I1"].violate("node-1 accepted a revoked credential", {"op": "call", "at": "node-1"})
    return RunResult(
        7, 200.0, tmp_path, verdicts, Figures(), "make chaos SEED=7 MINUTES=3.333333", "3.5.17", Shape(freshness=6.0)
    )


def test_a_failed_run_reports_how_to_repeat_it_and_the_version_of_etcd(result: RunResult) -> None:
    output = io.StringIO()
    print_result(Console(file=output, width=200), result)
    assert "etcd 3.5.17, freshness 6 s" in output.getvalue()
    assert "make chaos SEED=7 MINUTES=3.333333\n" in output.getvalue()
    assert f"--replay {result.folder}/plan.json\n" in output.getvalue()


def test_the_json_report_says_the_same(result: RunResult, tmp_path: Path) -> None:
    write_result(tmp_path / "report.json", result)
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["etcd"], report["again"]) == ("3.5.17", result.again)
    assert report["shape"]["freshness"] == 6.0
    assert (report["kept"], report["verdicts"]["I1"]["violated"]) == (False, 1)
