"""A node whose watch stays with an etcd that everybody has left: it lives on, and tells of nothing any more."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from credmesh.store.v1 import mesh_pb2
from interceptors import MeshNode, MeshSettings
from interceptors.etcd.client import EtcdClient, Put
from interceptors.keyspace import Layout, moved_beacon
from interceptors.scopes import subject_scope
from localmesh.etcd.process import EtcdProcess
from tests.support.etcd import backups
from tests.support.probe.issuer import ISSUER
from tests.support.waiting import free_port, wait_until


def begin(etcd: EtcdClient, layout: Layout, history_id: str, *lost: str) -> None:
    """Begins a history, as the auth service does."""
    cluster_id = etcd.read(layout.beacon).cluster_id
    record = mesh_pb2.History(format=1, history_id=history_id, cluster_id=cluster_id)
    for name in lost:
        record.lost.add(history_id=name)
    etcd.commit([], [Put(layout.history, record.SerializeToString()), moved_beacon(layout)])


def test_it_takes_up_the_watch_where_its_reads_see_another_history(tmp_path: Path, own_etcd: EtcdProcess) -> None:
    restored = EtcdProcess(tmp_path / "restored", port=free_port(), unsafe_no_fsync=True)
    restored.start()
    here = own_etcd.settings()
    layout = Layout(here.prefix)
    both = replace(here, endpoints=(own_etcd.endpoint, restored.endpoint), timeout=2.0)
    try:
        with EtcdClient(here) as etcd:
            begin(etcd, layout, "first")
        node = MeshNode(MeshSettings(etcd=both, service="probe", issuer=ISSUER, node_lease=60))
        try:
            node.start(20, strict_timeout=0)
            assert node.bundle.continuity.history is not None
            backups.restore(restored, backups.save(own_etcd, tmp_path / "backup"), new_cluster=True)
            with EtcdClient(restored.settings()) as etcd:
                begin(etcd, layout, "second", "first")
                etcd.commit([], [Put(layout.epoch(subject_scope("alice")), b""), moved_beacon(layout)])
            # What asks has moved on to the etcd that was restored; what watches has no reason to.
            node._client._current = 1
            wait_until(lambda: node.bundle.epochs.revokes([subject_scope("alice")], 1), 20, "the revocation")
            assert node.bundle.continuity.history.history_id == "second"
        finally:
            node.stop()
    finally:
        restored.stop()
