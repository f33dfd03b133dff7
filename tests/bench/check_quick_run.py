"""The quick benchmark runs to its end and writes rows of the documented shape. Its figures are not judged.

`make bench-check` runs this file, once in CI. `make test` does not collect it: it takes two minutes, and its processes
would disturb other tests.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any, Final

import pytest

from bench.peers.envoy import find_envoy
from bench.suites import SUITES
from tests.support.repository import REPOSITORY
from tests.support.running_mesh import environment

OUT: Final = REPOSITORY / "build"
RUN_TIMEOUT_SECONDS: Final = 540

SHAPE: Final[Mapping[str, tuple[type, ...]]] = {
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
"""The members of a row, as docs/performance.md lists them."""


def run_benchmark() -> str:
    """Runs the quick benchmark and returns what it prints."""
    (OUT / "bench.json").unlink(missing_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--scale", "quick", "--out", str(OUT)],
        cwd=REPOSITORY,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=RUN_TIMEOUT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout)
    return done.stdout


@pytest.mark.timeout(600)
def test_the_quick_benchmark_writes_rows_of_the_documented_shape() -> None:
    printed = run_benchmark()
    rows: list[dict[str, Any]] = json.loads((OUT / "bench.json").read_text())
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
    assert all(name.split(" ÷ ")[0] in printed for name in names), "a row is missing in the table"
    about = json.loads((OUT / "bench-run.json").read_text())
    assert about["scale"] == "quick"
    assert about["seconds_by_group"].keys() == SUITES.keys(), "every suite has run"
    compared_with_envoy = [row for row in rows if "Envoy" in row["name"]]
    assert compared_with_envoy
    if find_envoy() is None:
        assert all(row["peer"] is None and row["met"] is None for row in compared_with_envoy)
