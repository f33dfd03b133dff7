"""A missed target is shown, and the run still succeeds: a busy machine must not fail a change in CI."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import __main__ as command
from bench.results.statistics import Row, single_row
from bench.suite import SuiteContext


def _slow(context: SuiteContext) -> list[Row]:
    """A suite that misses its target."""
    tick = context.begin_progress("a constant", 1)
    tick()
    return [single_row("starting", "a constant", [9.0] * 6, unit="s", higher=False, target=1.0)]


def test_a_missed_target_is_shown_and_the_run_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "SUITES", {"slow": _slow})
    # Pinning would restrict the cores of the other tests in this process.
    monkeypatch.setattr(command, "pin", lambda cores: None)
    assert command.main(["--scale", "smoke", "--out", str(tmp_path)]) == 0
    assert [row["met"] for row in json.loads((tmp_path / "bench.json").read_text())] == [False]
    assert "1 missed" in capsys.readouterr().out
