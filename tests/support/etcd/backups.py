"""Backup and restore of etcd, with etcd's own tools."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

from localmesh.etcd.binary import clean_environment, find_etcd
from localmesh.etcd.process import EtcdProcess

__all__ = ["restore", "save", "tool"]

_PEER: Final = "http://127.0.0.1:0"


def tool(name: str, *arguments: str) -> str:
    """Runs etcdctl or etcdutl, which are installed beside etcd. Returns its output."""
    path = Path(shutil.which(name) or find_etcd().with_name(name))
    if not os.access(path, os.X_OK):
        path.chmod(0o755)
    done = subprocess.run(
        [str(path), *arguments], env=clean_environment(), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, f"{name} {' '.join(arguments)}:\n{done.stdout}{done.stderr}"
    return done.stdout


def save(process: EtcdProcess, path: Path) -> Path:
    """Writes a backup of a running etcd."""
    tool("etcdctl", f"--endpoints={process.endpoint}", "snapshot", "save", str(path))
    return path


def restore(process: EtcdProcess, backup: Path, *, new_cluster: bool) -> None:
    """Stops etcd, restores a backup, and starts it: as the same cluster, or as a new one."""
    process.kill()
    shutil.rmtree(process.data_dir)
    tool(
        "etcdutl",
        "snapshot",
        "restore",
        str(backup),
        f"--data-dir={process.data_dir}",
        "--name=default",
        f"--initial-cluster=default={_PEER}",
        f"--initial-advertise-peer-urls={_PEER}",
        *(["--initial-cluster-token=restored"] if new_cluster else []),
    )
    process.start()
