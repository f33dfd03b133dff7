"""An etcd whose history changes: it is restored from a backup, or replaced by another cluster."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from interceptors.etcd.client import EtcdClient, Put
from localmesh.etcd.process import EtcdProcess
from tests.support.etcd.follower import following
from tests.support.etcd.proxy import Proxy
from tests.support.waiting import wait_until


def _write(process: EtcdProcess, key: str, times: int) -> None:
    with EtcdClient(process.settings()) as client:
        for count in range(times):
            client.commit([], [Put(key, b"%d" % count)])


def _backup(process: EtcdProcess) -> Path:
    process.stop()
    copy = process.data_dir.with_name("backup")
    shutil.copytree(process.data_dir, copy)
    process.start()
    return copy


def _restore(process: EtcdProcess, backup: Path) -> None:
    process.kill()
    shutil.rmtree(process.data_dir)
    shutil.copytree(backup, process.data_dir)
    process.start()


@pytest.mark.parametrize(
    ("written_since", "found"), [(0, "was reached, and now is not"), (20, "is gone")], ids=["shorter", "longer"]
)
def test_an_etcd_that_was_restored_from_a_backup_is_read_again(
    own_etcd: EtcdProcess, caplog: pytest.LogCaptureFixture, written_since: int, found: str
) -> None:
    """Also when it has grown beyond the old revision, so that resuming from there would seem to work."""
    _write(own_etcd, "/test/kept", 1)
    backup = _backup(own_etcd)
    with Proxy(own_etcd.endpoint) as proxy:
        settings = replace(own_etcd.settings("/test/"), endpoints=(proxy.endpoint,))
        with caplog.at_level(logging.ERROR, "credmesh.etcd"), following(settings) as follower:
            assert follower.mirror.wait_ready(5)
            _write(own_etcd, "/test/lost", 10)
            wait_until(lambda: follower.values.get("/test/lost") == b"9")
            proxy.cut()
            _restore(own_etcd, backup)
            _write(own_etcd, "/test/other", written_since)
            proxy.mend()
            wait_until(lambda: "/test/lost" not in follower.values, what="the snapshot of the restored etcd")
            assert len(follower.snapshots) == 2
            _write(own_etcd, "/test/new", 1)
            wait_until(lambda: follower.values.get("/test/new") == b"0")
    assert "restored from a backup" in caplog.text
    assert found in caplog.text
    assert set(follower.values) == {"/test/kept", "/test/new"} | ({"/test/other"} if written_since else set())


def test_another_value_at_the_same_revision_is_of_another_history(
    own_etcd: EtcdProcess, caplog: pytest.LogCaptureFixture
) -> None:
    """The beacon is such a key: every commit puts it, so it was written last both before and after a restore."""
    _write(own_etcd, "/test/kept", 1)
    backup = _backup(own_etcd)
    with Proxy(own_etcd.endpoint) as proxy:
        settings = replace(own_etcd.settings("/test/"), endpoints=(proxy.endpoint,))
        with caplog.at_level(logging.ERROR, "credmesh.etcd"), following(settings) as follower:
            assert follower.mirror.wait_ready(5)
            with EtcdClient(own_etcd.settings()) as client:
                lost = client.commit([], [Put("/test/last", b"lost")])
            wait_until(lambda: follower.values.get("/test/last") == b"lost")
            proxy.cut()
            _restore(own_etcd, backup)
            with EtcdClient(own_etcd.settings()) as client:
                assert client.commit([], [Put("/test/last", b"another")]) == lost
            proxy.mend()
            wait_until(lambda: follower.values.get("/test/last") == b"another")
    assert "wrote something else" in caplog.text


def test_another_cluster_at_the_same_address_is_read_again(
    own_etcd: EtcdProcess, caplog: pytest.LogCaptureFixture
) -> None:
    """The same keys at the same revisions: only the cluster id differs."""
    _write(own_etcd, "/test/key", 3)
    port = int(own_etcd.endpoint.rpartition(":")[2])
    other = EtcdProcess(
        own_etcd.data_dir.with_name("other"),
        port=port,
        unsafe_no_fsync=True,
        arguments=["--initial-cluster-token=another"],
    )
    with Proxy(own_etcd.endpoint) as proxy:
        settings = replace(own_etcd.settings("/test/"), endpoints=(proxy.endpoint,))
        with caplog.at_level(logging.ERROR, "credmesh.etcd"), following(settings) as follower:
            assert follower.mirror.wait_ready(5)
            proxy.cut()
            own_etcd.stop()
            with other:
                _write(other, "/test/key", 3)
                proxy.mend()
                wait_until(lambda: len(follower.snapshots) == 2)
    assert follower.snapshots[0].cluster_id != follower.snapshots[1].cluster_id
    assert "it is cluster" in caplog.text
