"""The benchmark runs, in its smallest version, and leaves what it promises. No test says that a time is met."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.peers.envoy import find_envoy
from tests.support.repository import REPOSITORY
from tests.support.running_mesh import environment

SHAPE: dict[str, tuple[type, ...]] = {
    "name": (str,),
    "group": (str,),
    "ours": (float, type(None)),
    "peer": (float, type(None)),
    "unit": (str,),
    "ratio": (float, type(None)),
    "better": (str,),
    "target": (float, type(None)),
    "met": (bool, type(None)),
    "rounds": (int,),
    "spread": (float, type(None)),
    "note": (str,),
}
"""The members of every row, as docs/performance.md has them."""


def run(out: Path, *groups: str, **environ: str) -> list[dict[str, Any]]:
    """The rows of a smallest run."""
    command = [sys.executable, "-m", "bench", "--scale", "smoke", "--out", str(out), "--only", *groups]
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment(**environ), capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows: list[dict[str, Any]] = json.loads((out / "bench.json").read_text())
    assert all(row["name"].split(" ÷ ")[0] in done.stdout for row in rows), "a row is missing in the table"
    return rows


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "groups",
    [
        ("verification", "calls"),
        ("streams", "client", "issuing", "revocation", "receipts", "rotation", "growth", "hostile", "starting"),
    ],
    ids=["calls", "everything-else"],
)
def test_the_benchmark_runs_and_writes_rows_of_the_documented_shape(tmp_path: Path, groups: tuple[str, ...]) -> None:
    rows = run(tmp_path, *groups)
    for row in rows:
        assert row.keys() == SHAPE.keys()
        for name, kinds in SHAPE.items():
            assert isinstance(row[name], kinds), (name, row)
        assert row["better"] in {"higher", "lower"}
        assert (row["ratio"] is None) == (row["peer"] is None or row["ours"] is None)
        assert row["met"] is None or row["target"] is not None
        assert row["rounds"] >= 1
    names = [row["name"] for row in rows]
    assert len(set(names)) == len(names)
    assert json.loads((tmp_path / "bench-run.json").read_text())["scale"] == "smoke"
    if "calls" in groups and find_envoy() is None:
        absent = [row for row in rows if "Envoy" in row["name"]]
        assert absent
        assert all(row["peer"] is None and row["met"] is None and "pip install" in row["note"] for row in absent)
