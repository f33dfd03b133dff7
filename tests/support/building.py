"""Building the wheel and the source distribution with the backend that pip calls."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.repository import REPOSITORY
from tests.support.running_mesh import environment

__all__ = ["build", "copy_tree"]


def copy_tree(folder: Path) -> Path:
    """Copies the source tree as it is committed, without generated files. Returns the copy."""
    ignored = shutil.ignore_patterns("*_pb2*", ".*", "__pycache__", "build", "dist", "tests")
    shutil.copytree(REPOSITORY, folder, ignore=ignored)
    return folder


def build(folder: Path, kind: str) -> Path:
    """Builds a "wheel" or an "sdist" from a tree; returns the archive."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", kind],
        cwd=folder,
        env=environment(),
        check=True,
        capture_output=True,
        timeout=100,
    )
    (built,) = (folder / "dist").glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return built
