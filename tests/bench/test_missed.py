"""A missed target is shown, and is no failure: no busy machine turns away what somebody wants to land."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import __main__ as command
from bench.results.statistics import Row, alone
from bench.run import Run


def _slow(run: Run) -> list[Row]:
    """A group that misses its target by far."""
    tick = run.begin("nothing at all", 1)
    tick()
    return [alone("starting", "something", [9.0] * 6, unit="s", higher=False, target=1.0)]


def test_a_missed_target_is_shown_and_the_run_ends_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "ROOMS", {"slow": _slow})
    # The other tests of this process keep their cores.
    monkeypatch.setattr(command, "pin", lambda cores: None)
    assert command.main(["--scale", "smoke", "--out", str(tmp_path)]) == 0
    assert [row["met"] for row in json.loads((tmp_path / "bench.json").read_text())] == [False]
    assert "1 missed" in capsys.readouterr().out
