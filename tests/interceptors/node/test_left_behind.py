"""A node whose watch stays connected to an etcd that was replaced: that etcd runs on, but gets no commits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from credmesh.store.v1 import mesh_pb2
from interceptors import MeshNode, MeshSettings
from interceptors.etcd.client import EtcdClient, Put
from interceptors.keyspace import Layout, beacon_update
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
    etcd.commit([], [Put(layout.history, record.SerializeToString()), beacon_update(layout)])


def test_the_watch_moves_to_the_etcd_whose_reads_show_a_new_history(tmp_path: Path, own_etcd: EtcdProcess) -> None:
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
            assert node.bundle.monitor.history is not None
            backups.restore(restored, backups.save(own_etcd, tmp_path / "backup"), new_cluster=True)
            with EtcdClient(restored.settings()) as etcd:
                begin(etcd, layout, "second", "first")
                etcd.commit([], [Put(layout.epoch(subject_scope("alice")), b""), beacon_update(layout)])
            # The node's reads now use the restored etcd. Its watch has no reason to move.
            node._client._current = 1
            wait_until(lambda: node.bundle.epochs.find_revoked_scope([subject_scope("alice")], 1), 20, "the revocation")
            assert node.bundle.monitor.history.history_id == "second"
        finally:
            node.stop()
    finally:
        restored.stop()
