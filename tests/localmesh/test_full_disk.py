"""A disk that fills while the embedded etcd runs: it is named, and nothing that was acknowledged is lost."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from interceptors.etcd.client import EtcdClient, EtcdUnavailable, Put
from localmesh.errors import LocalMeshError
from localmesh.etcd.process import EtcdProcess
from tests.support.waiting import wait_until

MIB = 1024 * 1024


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with room for an etcd (which reserves 128 MiB for its log), and not for much more."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if mount is None or umount is None:
        pytest.skip("there is no mount here")
    done = subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=160m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run([umount, str(folder)], check=True)


def fill(etcd: EtcdProcess) -> dict[str, bytes]:
    """Writes until nothing goes any more; what was acknowledged."""
    acknowledged: dict[str, bytes] = {}
    with EtcdClient(etcd.settings(timeout=2)) as client:
        for number in range(10_000):
            key, value = f"/kept/{number:04}", os.urandom(20_000)
            try:
                client.commit([], [Put(key, value)])
            except EtcdUnavailable:
                break
            acknowledged[key] = value
    wait_until(lambda: not etcd.alive, what="etcd gives up, rather than to go on without its data")
    return acknowledged


def kept(etcd: EtcdProcess) -> dict[str, bytes]:
    """What it holds now, once it has shown that it takes changes again."""
    with EtcdClient(etcd.settings()) as client:
        client.commit([], [Put("/new", b"there is room")])
        return {key: record.value for key, record in client.read_prefix("/kept/").values.items()}


def test_a_disk_that_fills_while_etcd_runs_loses_nothing_and_is_named(small_disk: Path, tmp_path: Path) -> None:
    etcd = EtcdProcess(small_disk / "etcd", log_file=tmp_path / "etcd.log")
    with etcd:
        ballast = small_disk / "ballast"
        ballast.write_bytes(bytes(max(0, shutil.disk_usage(small_disk).free - 3 * MIB)))
        acknowledged = fill(etcd)
        assert acknowledged
        assert "no space left on device" in etcd.log_file.read_text()
        with pytest.raises(
            LocalMeshError, match=r"(?i)no space left on device.*free some space|is full.*free some space"
        ):
            etcd.start()
        ballast.unlink()
        etcd.start()
        # One more may be there: written, and not acknowledged any more.
        assert acknowledged.items() <= kept(etcd).items()


def test_an_etcd_whose_database_may_not_grow_loses_nothing(tmp_path: Path) -> None:
    """The same where nothing can be mounted: to one process a limit on the size of files is as good as no room."""
    with EtcdProcess(tmp_path / "etcd") as etcd:
        assert etcd.pid is not None
        # Its log is at its full size of 64 MB from the beginning, and would be stopped first by a smaller limit.
        resource.prlimit(etcd.pid, resource.RLIMIT_FSIZE, (64_000_000, 64_000_000))
        acknowledged = fill(etcd)
        assert acknowledged
        etcd.start()
        assert acknowledged.items() <= kept(etcd).items()
