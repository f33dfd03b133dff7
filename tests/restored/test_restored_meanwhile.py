"""An etcd that is restored while a guard of its history is at work."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from interceptors.etcd.client import CreatedAt, Delete, EtcdClient, Put, Unchanged
from interceptors.etcd.layout import Layout
from interceptors.settings import EtcdSettings
from localmesh.etcd import EtcdProcess
from tests.restored import backups
from tests.restored.guards import Make, fence, history, register


@pytest.fixture
def etcd_settings(own_etcd: EtcdProcess) -> EtcdSettings:
    """An etcd of the test's own, under the name by which the fixtures know it."""
    return own_etcd.settings("/restored/")


class Slow(EtcdClient):
    """Whoever vouches with it is held up right before the commit; meanwhile something happens."""

    meanwhile: Callable[[], None] | None = None

    def commit(
        self,
        conditions: Sequence[Unchanged | CreatedAt],
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
    marks = []

    def restored() -> None:
        marks.append(etcd_client.read(layout.check).values[layout.check].mod_revision)
        backups.restore(own_etcd, backup, new_cluster=False)
        marks.append(etcd_client.commit([], [Put(layout.check, b"another replica's")]))
        # In an etcd that this guard has not looked at.
        register(etcd_client, layout)

    slow.meanwhile = restored
    guard.vouch(lead)
    assert slow.meanwhile is None
    assert marks[0] == marks[1]
    assert not history(etcd_client, layout).HasField("vouched_at")
