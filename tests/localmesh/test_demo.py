"""`make demo`: runs to its end, every check passes, and the report has the documented shape."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from localmesh.demo import story
from localmesh.demo.demo_mesh import DemoMesh
from localmesh.demo.mesh_client import MeshClient
from localmesh.demo.narrator import DemoFailed, Narrator
from localmesh.processes.process import Process
from tests.support.repository import REPOSITORY
from tests.support.running_mesh import RunningMesh, environment
from tests.support.waiting import free_port, wait_until

SHAPE: dict[str, Any] = {
    "up_seconds": float,
    "calls": {"ok": int, "refused": int},
    "rotation": {"rotations": int, "calls_during": int, "refused": int},
    "revocation": {"nodes": int, "commit_to_refused_ms": {"p50": float, "max": float}, "stream_ended_ms": float},
    "hostile": {"tried": int, "accepted": int},
    "outage": {"auth_replica_killed_refused": int, "etcd_down_refused": int, "recovered": bool},
}


def demo(folder: Path, *, working_folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs the demo on the mesh in a folder, or on a temporary one if none is up there."""
    return subprocess.run(
        [sys.executable, "-m", "localmesh", "--folder", str(folder), "demo"],
        cwd=working_folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


def shape_of(value: Any) -> Any:
    """A report with types instead of figures."""
    if isinstance(value, dict):
        return {name: shape_of(one) for name, one in value.items()}
    return type(value)


@pytest.mark.timeout(180)
def test_the_demo_passes_on_a_temporary_mesh(tmp_path: Path) -> None:
    done = demo(tmp_path / ".mesh", working_folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "a mesh started for this demo" in done.stdout
    assert "Every check passed." in done.stdout
    # One stream is open from the first chapter to the end.
    beginning, outage = done.stdout.split("etcd is stopped, and started again")
    assert "bob watches the stock of tea until the end of the demo" in beginning
    assert "bob's stream of stock changes was open throughout" in outage
    report = json.loads((tmp_path / "build" / "demo.json").read_text())
    assert shape_of(report) == SHAPE
    assert report["calls"]["ok"] > 1000
    assert report["calls"]["refused"] == 0
    assert report["rotation"]["rotations"] >= 5
    assert report["rotation"]["calls_during"] > 100
    assert report["rotation"]["refused"] == 0
    assert report["revocation"]["nodes"] == 5
    assert report["hostile"]["tried"] >= 50
    assert report["hostile"]["accepted"] == 0
    assert report["outage"] == {"auth_replica_killed_refused": 0, "etcd_down_refused": 0, "recovered": True}
    assert not (tmp_path / "build" / "demo-mesh").exists(), "the temporary mesh's data is deleted"


def test_the_report_is_as_the_documentation_says() -> None:
    text = (REPOSITORY / "docs" / "architecture.md").read_text()
    table = text.split("The figures in `build/demo.json`:")[1]
    cells = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    documented = set()
    for cell in cells:
        names = re.findall(r"`([^`]+)`", cell)
        group = names[0].partition(".")[0]
        documented |= {name if not name.startswith(".") else group + name for name in names}
    expected = {
        f"{group}.{name}" if isinstance(SHAPE[group], dict) else group
        for group in SHAPE
        for name in (SHAPE[group] if isinstance(SHAPE[group], dict) else [""])
    }
    assert documented == expected


def test_the_demo_fails_without_a_traceback_if_no_mesh_comes_up(tmp_path: Path) -> None:
    (tmp_path / "build").write_text("in the way")
    done = demo(tmp_path / ".mesh", working_folder=tmp_path)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr, done.stderr


def test_an_interrupted_demo_writes_its_figures(mesh: RunningMesh, tmp_path: Path) -> None:
    report = tmp_path / "demo.json"
    process = Process(
        [sys.executable, "-m", "localmesh", "--folder", str(mesh.folder), "demo", "--report", str(report)],
        environment=environment(),
        log_file=tmp_path / "demo.log",
    )
    process.start()
    assert process.pid is not None
    wait_until(lambda: "goes shopping" in process.log_file.read_text(), 30, "the first chapter")
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(30)
    assert process.exit_code == 130, process.log_file.read_text()
    assert shape_of(json.loads(report.read_text())).keys() == SHAPE.keys()


def test_a_stream_that_cannot_be_opened_fails_like_any_other_call(mesh: RunningMesh) -> None:
    """A traceback would lose the figures of the first chapter."""
    profile = {**mesh.profile, "auth": f"127.0.0.1:{free_port()}"}
    target = DemoMesh(mesh.folder, profile, up_seconds=1.0, embedded_etcd=True, temporary=False)

    async def open_stream() -> None:
        async with MeshClient(target) as client, AsyncExitStack() as until_the_end:
            await story._chapter(story._open_stream(Narrator(Console()), client, until_the_end))

    with pytest.raises(DemoFailed, match="a call failed: UNAVAILABLE"):
        asyncio.run(open_stream())


def test_down_and_status_say_that_no_mesh_is_up(tmp_path: Path) -> None:
    for command in ("down", "status"):
        done = subprocess.run(
            [sys.executable, "-m", "localmesh", "--folder", str(tmp_path / ".mesh"), command],
            env=environment(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 1
        assert "no mesh is up in" in done.stderr
        assert "make run" in done.stderr


def test_status_lists_the_parts_of_a_mesh_that_is_up(mesh: RunningMesh) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "localmesh", "--folder", str(mesh.folder), "status"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert [line.split()[0] for line in done.stdout.splitlines()] == [part["name"] for part in mesh.status()["parts"]]
