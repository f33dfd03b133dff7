"""A node that registers again writes the acknowledgements again that its old lease has taken away."""

from __future__ import annotations

from typing import Any

from credmesh.store.v1 import mesh_pb2
from interceptors import EtcdSettings, MeshNode, MeshSettings
from interceptors.etcd.client import EtcdClient, EtcdUnavailable, Put, Snapshot
from interceptors.keyspace import Layout
from tests.support.probe.issuer import ISSUER
from tests.support.waiting import wait_until


class Failing(EtcdClient):
    """A client whose next `failures` reads of the barriers fail."""

    failures = 0
    barriers = ""

    def read_prefix(self, prefix: str, **arguments: Any) -> Snapshot:
        if prefix == self.barriers and self.failures:
            self.failures -= 1
            raise EtcdUnavailable("on purpose")
        return super().read_prefix(prefix, **arguments)


def test_barriers_are_acknowledged_although_reading_them_failed_once(
    etcd_settings: EtcdSettings, etcd_client: EtcdClient
) -> None:
    """Otherwise a rotation would wait for this node as long as it runs: it would never learn of the barrier."""
    layout = Layout(etcd_settings.prefix)
    node = MeshNode(MeshSettings(etcd=etcd_settings, service="probe", issuer=ISSUER, node_lease=2), node_id="a")
    client = Failing(etcd_settings)
    client.barriers = layout.barriers
    node._client.close()
    node._client = node._heartbeat._client = client
    etcd_client.commit([], [Put(layout.barrier("b"), mesh_pb2.Barrier(format=1).SerializeToString())])
    record, ack = layout.node("a"), layout.ack("b", "a")
    with node:
        wait_until(lambda: etcd_client.read(ack).values, what="the acknowledgement")
        client.failures = 1
        etcd_client.revoke_lease(etcd_client.read(record).values[record].lease)
        wait_until(lambda: not client.failures, what="the failure")
        wait_until(lambda: etcd_client.read(ack).values, what="the acknowledgement, again")
