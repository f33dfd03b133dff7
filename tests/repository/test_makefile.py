"""The make targets: their messages if something is missing, and that CI runs only make targets."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.support.repository import REPOSITORY
from tests.support.running_mesh import RunningMesh, environment


def make(*arguments: str, folder: Path = REPOSITORY, **environ: str) -> subprocess.CompletedProcess[str]:
    """Runs make."""
    return subprocess.run(
        ["make", "--no-print-directory", *arguments],  # noqa: S607 - whichever make the developer has
        cwd=folder,
        env=environment(**environ),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_make_alone_lists_every_target() -> None:
    listed = re.findall(r"make ([a-z-]+)", make().stdout)
    phony = re.findall(r"(?m)^\.PHONY: (.*)$", (REPOSITORY / "Makefile").read_text())
    assert set(phony) <= set(listed)


def test_ci_runs_make_targets_only() -> None:
    lines = (REPOSITORY / ".ci" / "run").read_text().splitlines()
    commands = [line for line in lines if line and not line.startswith(("#", "set ", "cd "))]
    assert commands
    assert all(re.fullmatch(r"make [a-z-]+", command) for command in commands)
    assert len(set(commands)) == len(commands), "no check runs twice"
    assert {"make test", "make bench-check"} <= set(commands)


@pytest.mark.parametrize(
    ("target", "question"), [("revoke", "whom?"), ("revoke-key", "which key?"), ("kick", "which session?")]
)
def test_a_target_without_its_argument_asks_for_it(target: str, question: str, tmp_path: Path) -> None:
    # -o: without installing first. The test is only about the missing argument.
    done = make("-o", ".venv/.installed-local", target)
    assert done.returncode != 0
    assert question in done.stderr


def test_a_python_that_is_too_old_is_reported(tmp_path: Path) -> None:
    old = tmp_path / "python3.9"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.1 && exit 0\nexit 1\n')
    old.chmod(0o755)
    for name in ("Makefile", "pyproject.toml"):
        (tmp_path / name).write_text((REPOSITORY / name).read_text())
    (tmp_path / "protos" / "credmesh").mkdir(parents=True)
    (tmp_path / "protos" / "generate.py").touch()
    done = make("run", f"PYTHON={old}", folder=tmp_path)
    assert done.returncode != 0
    assert f"credmesh needs Python 3.11 or newer; {old} is Python 3.9.1." in done.stderr
    assert "make run PYTHON=/path/to/python3.12" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_a_system_that_is_not_linux_is_reported(tmp_path: Path) -> None:
    uname = tmp_path / "bin" / "uname"
    uname.parent.mkdir()
    uname.write_text("#!/bin/sh\necho Darwin\n")
    uname.chmod(0o755)
    for name in ("Makefile", "pyproject.toml"):
        (tmp_path / name).write_text((REPOSITORY / name).read_text())
    (tmp_path / "protos" / "credmesh").mkdir(parents=True)
    (tmp_path / "protos" / "generate.py").touch()
    done = make("run", folder=tmp_path, PATH=f"{uname.parent}{os.pathsep}{os.environ['PATH']}")
    assert done.returncode != 0
    assert "credmesh needs Linux" in done.stderr
    assert "this is Darwin." in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_everyone_can_be_revoked_without_a_terminal(mesh: RunningMesh) -> None:
    arguments = ("-o", ".venv/.installed-local", "revoke", "EVERYONE=1")
    profile = str(mesh.folder / "profile.json")
    asked = make(*arguments, CREDMESH_PROFILE=profile)
    assert asked.returncode != 0
    assert "there is no terminal to ask on" in asked.stderr
    done = make(*arguments, "YES=1", CREDMESH_PROFILE=profile)
    assert done.returncode == 0, done.stderr
    assert "Revoked everything that was issued" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["keys"], "ACTIVE"),
        (["rotate-keys"], "ACTIVE"),
        (["sessions"], "alice"),
        (["nodes"], "storefront"),
        (["revoke", "SUBJECT=unknown-user"], "unknown-user"),
        (["login", "SUBJECT=bob"], "bob"),
    ],
)
def test_the_targets_that_operate_a_mesh_work(mesh: RunningMesh, arguments: list[str], expected: str) -> None:
    mesh.sign_in("alice")
    profile = str(mesh.folder / "profile.json")
    # -o: without installing first. The tests run from an installation already.
    done = make(
        *("-o", ".venv/.installed-local", *arguments), CREDMESH_PROFILE=profile, CREDMESH_PASSWORD="bob-password"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert expected in done.stdout
