"""An etcd that is restored while a guard of its history is at work, or while it is not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from interceptors.etcd.client import CreatedAt, Delete, EtcdClient, NoneSince, Put, Unchanged
from interceptors.keyspace import Layout, moved_beacon
from interceptors.settings import EtcdSettings
from localmesh.etcd.process import EtcdProcess
from tests.support.etcd import backups
from tests.support.guards import Make, Replica, fence, history, register


@pytest.fixture
def etcd_settings(own_etcd: EtcdProcess) -> EtcdSettings:
    """An etcd of the test's own, under the name by which the fixtures know it."""
    return own_etcd.settings("/restored/")


class Slow(EtcdClient):
    """Whoever vouches with it is held up right before the commit; meanwhile something happens."""

    meanwhile: Callable[[], None] | None = None

    def commit(
        self,
        conditions: Sequence[Unchanged | CreatedAt | NoneSince],
        operations: Sequence[Put | Delete],
        *,
        timeout: float | None = None,
    ) -> int | None:
        """Commits, late."""
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


def test_another_replicas_mark_at_the_same_revision_is_not_taken_for_ones_own(
    tmp_path: Path, own_etcd: EtcdProcess, replica: Make, etcd_client: EtcdClient, layout: Layout, slow: Slow
) -> None:
    guard = replica(etcd=slow)
    guard.look()
    lead = fence(etcd_client, layout)
    register(etcd_client, layout)
    backup = backups.save(own_etcd, tmp_path / "backup")
    marks: list[int | None] = []

    def restored() -> None:
        marks.append(etcd_client.read(layout.check).values[layout.check].mod_revision)
        backups.restore(own_etcd, backup, new_cluster=False)
        # In an etcd that this guard has not looked at. The node that wants the vouch is registered in both.
        marks.append(etcd_client.commit([], [Put(layout.check, b"another replica's")]))

    slow.meanwhile = restored
    guard.vouch(lead)
    assert slow.meanwhile is None
    assert marks[0] == marks[1]
    assert not history(etcd_client, layout).HasField("vouched_at")


def test_a_backup_that_has_the_mark_in_it_is_not_vouched_for_by_who_looked_before_it_was_restored(
    tmp_path: Path, own_etcd: EtcdProcess, replica: Make, etcd_client: EtcdClient, layout: Layout, slow: Slow
) -> None:
    guard = replica(etcd=slow)
    guard.look()
    lead = fence(etcd_client, layout)
    register(etcd_client, layout)

    def restored() -> None:
        backup = backups.save(own_etcd, tmp_path / "backup")
        move(etcd_client, layout, 1)  # what is revoked now is lost
        backups.restore(own_etcd, backup, new_cluster=False)
        register(etcd_client, layout)

    slow.meanwhile = restored
    guard.vouch(lead)
    assert slow.meanwhile is None
    assert not history(etcd_client, layout).HasField("vouched_at")


def move(etcd: EtcdClient, layout: Layout, times: int) -> None:
    """Moves the beacon, as whatever is committed below mesh/ does."""
    for _ in range(times):
        etcd.commit([], [moved_beacon(layout)])


class TestOutgrown:
    """Everything was stopped; the restored etcd has gone on before the one who remembers looks at it."""

    @pytest.fixture
    def outgrown(
        self, tmp_path: Path, own_etcd: EtcdProcess, replica: Make, etcd_client: EtcdClient, layout: Layout
    ) -> Callable[[], Replica]:
        """Makes a guard that remembers what was lost."""
        path = tmp_path / "watermark.json"
        before = replica(path)
        before.look()
        before.look()
        backup = backups.save(own_etcd, tmp_path / "backup")
        move(etcd_client, layout, 3)
        assert before.look() is not None
        backups.restore(own_etcd, backup, new_cluster=False)
        # One that remembers nothing is first, and finds nothing missing.
        assert replica().look() is not None
        move(etcd_client, layout, 10)
        return lambda: replica(path)

    def test_it_is_found_by_what_the_beacon_held(
        self, outgrown: Callable[[], Replica], etcd_client: EtcdClient, layout: Layout
    ) -> None:
        guard = outgrown()
        assert guard.look() is None
        (lost,) = history(etcd_client, layout).lost
        assert "is not the one that was put there" in lost.reason
        assert guard.look() is not None

    def test_it_is_found_although_the_replicas_own_node_has_followed_it_already(
        self, outgrown: Callable[[], Replica], etcd_client: EtcdClient, layout: Layout
    ) -> None:
        """What the node sees goes on from nothing, and must not take the place of what is remembered."""
        other = outgrown()
        found = other._read()
        guard = outgrown()
        guard.monitor.record_read(guard.monitor.observed, found.observed)
        assert guard.monitor.observed.beacon > guard.watermark.observed.beacon
        assert guard.look() is None
        assert history(etcd_client, layout).lost

    def test_where_that_is_compacted_it_says_what_it_rests_on(
        self,
        outgrown: Callable[[], Replica],
        etcd_client: EtcdClient,
        own_etcd: EtcdProcess,
        layout: Layout,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        revision = etcd_client.read(layout.beacon).revision
        backups.tool("etcdctl", f"--endpoints={own_etcd.endpoint}", "compact", str(revision))
        assert outgrown().look() is not None
        assert "is compacted" in caplog.text


def test_an_etcd_that_has_only_gone_on_is_not_taken_for_another(
    tmp_path: Path, own_etcd: EtcdProcess, replica: Make, etcd_client: EtcdClient, layout: Layout
) -> None:
    path = tmp_path / "watermark.json"
    guard = replica(path)
    guard.look()
    guard.look()
    move(etcd_client, layout, 10)
    own_etcd.kill()
    own_etcd.start()
    assert replica(path).look() is not None
    move(etcd_client, layout, 1)
    assert guard.look() is not None
