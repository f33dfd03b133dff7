"""Continuity guards without the rest of their replicas."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from authsvc.continuity.guard import ContinuityGuard
from authsvc.continuity.watermark import Watermark
from authsvc.coordination.acknowledgements import AckTracker
from authsvc.revocation.revoker import Revoker
from authsvc.settings import AuthSettings
from credmesh.store.v1 import mesh_pb2
from interceptors.etcd.client import CreatedAt, Delete, EtcdClient, Put
from interceptors.keyspace import Layout
from interceptors.settings import EtcdSettings, MeshSettings, ServerSettings
from interceptors.trust.continuity_monitor import ContinuityMonitor
from tests.support.processes import ISSUER, KEK

__all__ = ["Make", "Replica", "fence", "guards", "history", "register"]

Make = Callable[..., "Replica"]


class Replica(ContinuityGuard):
    """A continuity guard, with the watermark and the monitor that it was given."""

    watermark: Watermark
    monitor: ContinuityMonitor


def guards(etcd_settings: EtcdSettings, etcd_client: EtcdClient, ack_tracker: AckTracker, stack: ExitStack) -> Make:
    """Returns a function that makes guards on one etcd. The stack stops them."""
    settings = AuthSettings(
        mesh=MeshSettings(etcd=etcd_settings, service="auth", issuer=ISSUER),
        server=ServerSettings(listen="127.0.0.1:0", plaintext=True),
        kek=KEK,
    )
    layout = Layout(etcd_settings.prefix)

    def make(path: Path | None = None, *, node_id: str = "auth", etcd: EtcdClient = etcd_client) -> Replica:
        watermark, monitor = Watermark(path, layout.prefix), ContinuityMonitor()
        guard = Replica(
            etcd=etcd,
            layout=layout,
            node_id=node_id,
            monitor=monitor,
            ack_tracker=ack_tracker,
            revoker=Revoker(etcd, layout, settings),
            watermark=watermark,
        )
        guard.watermark, guard.monitor = watermark, monitor
        stack.callback(guard.stop)
        return guard

    return make


def history(etcd: EtcdClient, layout: Layout) -> mesh_pb2.History:
    """Reads the history's record."""
    return mesh_pb2.History.FromString(etcd.read(layout.history).values[layout.history].value)


def fence(etcd: EtcdClient, layout: Layout) -> CreatedAt:
    """Takes leadership from the replica that leads. Returns the fence."""
    etcd.commit([], [Delete(layout.leader)])
    revision = etcd.commit([], [Put(layout.leader, b"mine")])
    assert revision is not None
    return CreatedAt(layout.leader, revision, b"mine")


def register(etcd: EtcdClient, layout: Layout, *, broken_history: str = "") -> int:
    """Writes the registration of node "n". Returns the revision."""
    record = mesh_pb2.NodeRecord(format=1, node_id="n", broken_history=broken_history)
    revision = etcd.commit([], [Put(layout.node("n"), record.SerializeToString(), etcd.grant(600))])
    assert revision is not None
    return revision
