"""An etcd that is restored while a continuity guard checks or vouches, or while no guard runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from authsvc.continuity.history_record import read_current_history
from interceptors.etcd.client import Condition, Delete, EtcdClient, Put
from interceptors.keyspace import Layout, beacon_update
from interceptors.settings import EtcdSettings
from localmesh.etcd.process import EtcdProcess
from tests.support.etcd import backups
from tests.support.guards import Make, Replica, fence, history, register


@pytest.fixture
def etcd_settings(own_etcd: EtcdProcess) -> EtcdSettings:
    """Has the fixtures use an etcd that only this test uses, so that it can be restored."""
    return own_etcd.settings("/restored/")


class Slow(EtcdClient):
    """A client that runs `meanwhile` right before it commits a vouch."""

    meanwhile: Callable[[], None] | None = None

    def commit(
        self,
        conditions: Sequence[Condition],
        operations: Sequence[Put | Delete],
        *,
        timeout: float | None = None,
    ) -> int | None:
        """Commits after `meanwhile` has run."""
        happens, writes = self.meanwhile, [operation.key for operation in operations]
        if happens is not None and any(key.endswith("mesh/history") for key in writes):
            self.meanwhile = None
            happens()
        return super().commit(conditions, operations, timeout=timeout)


@pytest.fixture
def slow(etcd_settings: EtcdSettings) -> Iterator[Slow]:
    """A client for one guard."""
    with Slow(etcd_settings) as etcd:
        yield etcd


def test_another_replicas_mark_at_the_same_revision_does_not_count(
    tmp_path: Path, own_etcd: EtcdProcess, replica: Make, etcd_client: EtcdClient, layout: Layout, slow: Slow
) -> None:
    guard = replica(etcd=slow)
    guard.check_and_recover()
    leader_fence = fence(etcd_client, layout)
    register(etcd_client, layout)
    backup = backups.save(own_etcd, tmp_path / "backup")
    marks: list[int | None] = []

    def restored() -> None:
        marks.append(etcd_client.read(layout.check).values[layout.check].mod_revision)
        backups.restore(own_etcd, backup, new_cluster=False)
        # This guard has not checked the restored etcd. The node that needs the vouch is registered in both.
        marks.append(etcd_client.commit([], [Put(layout.check, b"another replica's")]))

    slow.meanwhile = restored
    guard.vouch_job(leader_fence)
    assert slow.meanwhile is None
    assert marks[0] == marks[1]
    assert not history(etcd_client, layout).HasField("vouched_at")


def test_a_restored_backup_with_the_mark_in_it_is_not_vouched_for(
    tmp_path: Path, own_etcd: EtcdProcess, replica: Make, etcd_client: EtcdClient, layout: Layout, slow: Slow
) -> None:
    guard = replica(etcd=slow)
    guard.check_and_recover()
    leader_fence = fence(etcd_client, layout)
    register(etcd_client, layout)

    def restored() -> None:
        backup = backups.save(own_etcd, tmp_path / "backup")
        move(etcd_client, layout, 1)  # a revocation after the backup, which the restore loses
        backups.restore(own_etcd, backup, new_cluster=False)
        register(etcd_client, layout)

    slow.meanwhile = restored
    guard.vouch_job(leader_fence)
    assert slow.meanwhile is None
    assert not history(etcd_client, layout).HasField("vouched_at")


def move(etcd: EtcdClient, layout: Layout, times: int) -> None:
    """Moves the beacon, as every commit below mesh/ does."""
    for _ in range(times):
        etcd.commit([], [beacon_update(layout)])


class TestOutgrown:
    """Everything was stopped. The restored etcd has outgrown the watermark before the replica checks it."""

    @pytest.fixture
    def outgrown(
        self, tmp_path: Path, own_etcd: EtcdProcess, replica: Make, etcd_client: EtcdClient, layout: Layout
    ) -> Callable[[], Replica]:
        """Returns a function that makes a guard whose watermark lies beyond the backup."""
        path = tmp_path / "watermark.json"
        before = replica(path)
        before.check_and_recover()
        before.check_and_recover()
        backup = backups.save(own_etcd, tmp_path / "backup")
        move(etcd_client, layout, 3)
        assert before.check_and_recover() is not None
        backups.restore(own_etcd, backup, new_cluster=False)
        # A replica without a watermark checks first, and finds nothing missing.
        assert replica().check_and_recover() is not None
        move(etcd_client, layout, 10)
        return lambda: replica(path)

    def test_the_loss_is_found_by_the_beacons_value(
        self, outgrown: Callable[[], Replica], etcd_client: EtcdClient, layout: Layout
    ) -> None:
        guard = outgrown()
        assert guard.check_and_recover() is None
        (lost,) = history(etcd_client, layout).lost
        assert "is not the one that was put there" in lost.reason
        assert guard.check_and_recover() is not None

    def test_the_loss_is_found_although_the_replicas_node_follows_that_etcd(
        self, outgrown: Callable[[], Replica], etcd_client: EtcdClient, layout: Layout
    ) -> None:
        """What the node has observed began after the restore, and must not replace the watermark."""
        current = read_current_history(etcd_client, layout)
        guard = outgrown()
        guard.monitor.record_read(guard.monitor.observed, current.observed)
        assert guard.monitor.observed.beacon_revision > guard.watermark.observed.beacon_revision
        assert guard.check_and_recover() is None
        assert history(etcd_client, layout).lost

    def test_if_that_revision_is_compacted_the_log_says_what_the_check_rests_on(
        self,
        outgrown: Callable[[], Replica],
        etcd_client: EtcdClient,
        own_etcd: EtcdProcess,
        layout: Layout,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        revision = etcd_client.read(layout.beacon).revision
        backups.tool("etcdctl", f"--endpoints={own_etcd.endpoint}", "compact", str(revision))
        assert outgrown().check_and_recover() is not None
        assert "is compacted" in caplog.text


def test_an_etcd_that_has_only_gone_on_is_no_loss(
    tmp_path: Path, own_etcd: EtcdProcess, replica: Make, etcd_client: EtcdClient, layout: Layout
) -> None:
    path = tmp_path / "watermark.json"
    guard = replica(path)
    guard.check_and_recover()
    guard.check_and_recover()
    move(etcd_client, layout, 10)
    own_etcd.kill()
    own_etcd.start()
    assert replica(path).check_and_recover() is not None
    move(etcd_client, layout, 1)
    assert guard.check_and_recover() is not None
