"""Which keys are registrations. A key without a lease is none, and no receipt waits for it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import pytest

from authsvc.coordination.acknowledgements import AckTracker
from authsvc.revocation.receipts import Receipts
from credmesh.store.v1 import mesh_pb2
from interceptors.etcd.client import Delete, EtcdClient, EtcdUnavailable, Put, Snapshot
from interceptors.etcd.mirror import Event
from interceptors.keyspace import Layout
from interceptors.node.mesh_node import MeshNode
from interceptors.settings import EtcdSettings, MeshSettings
from tests.support.processes import ISSUER
from tests.support.waiting import wait_until


@pytest.fixture
def layout(etcd_settings: EtcdSettings) -> Layout:
    return Layout(etcd_settings.prefix)


@pytest.fixture
def ack_tracker(etcd_settings: EtcdSettings, etcd_client: EtcdClient, layout: Layout) -> Iterator[AckTracker]:
    with AckTracker(etcd_settings, etcd_client, layout) as ack_tracker:
        yield ack_tracker


def put(layout: Layout, name: str, lease: int = 0) -> Put:
    """The operation that writes a registration: with a lease as a node does, without one as an operator by hand."""
    return Put(layout.node(name), mesh_pb2.NodeRecord(format=1, node_id=name).SerializeToString(), lease)


def test_a_receipt_does_not_wait_for_a_key_without_a_lease(
    etcd_client: EtcdClient, etcd_settings: EtcdSettings, layout: Layout, ack_tracker: AckTracker
) -> None:
    etcd_client.commit([], [put(layout, "odd")])

    def commit(operations: Sequence[Put | Delete]) -> int:
        revision = etcd_client.commit([], list(operations))
        assert revision is not None
        return revision

    settings = MeshSettings(etcd=etcd_settings, service="orders", issuer=ISSUER)
    with MeshNode(settings) as node:
        wait_until(lambda: node.id in ack_tracker.registered_nodes)
        begun = time.monotonic()
        receipt = Receipts(etcd_client, layout, ack_tracker, longest_freshness=10.0).confirm(commit, timeout=10.0)
        assert receipt.complete
        assert [one.node_id for one in receipt.nodes] == [node.id]
        assert time.monotonic() - begun < 5.0


@pytest.mark.parametrize("early", [True, False], ids=["before the ack_tracker reads", "while it watches"])
def test_only_a_key_under_a_lease_is_a_registration(
    etcd_settings: EtcdSettings, etcd_client: EtcdClient, layout: Layout, early: bool, caplog: pytest.LogCaptureFixture
) -> None:
    ack_tracker = AckTracker(etcd_settings, etcd_client, layout)
    operations = [put(layout, "odd"), put(layout, "node", etcd_client.grant(600))]
    if early:
        etcd_client.commit([], operations)
    with ack_tracker:
        if not early:
            wait_until(lambda: ack_tracker._nodes.connected)
            etcd_client.commit([], operations)
        wait_until(lambda: ack_tracker.registered_nodes)
        assert set(ack_tracker.registered_nodes) == {"node"}
    assert f"{layout.node('odd')} is ignored: it is under no lease" in caplog.text


def test_a_node_whose_key_is_overwritten_without_a_lease_has_left(
    etcd_client: EtcdClient, layout: Layout, ack_tracker: AckTracker
) -> None:
    """Its lease no longer ends that key. If the node lives, it notices and registers again."""
    registration_revision = etcd_client.commit([], [put(layout, "node", etcd_client.grant(600))]) or 0
    wait_until(lambda: "node" in ack_tracker.registered_nodes)
    with ack_tracker.collect_for_existing_barrier("b") as collector:
        assert not collector.has_left("node", registration_revision)
        etcd_client.commit([], [put(layout, "node")])
        wait_until(lambda: collector.has_left("node", registration_revision))
        assert not ack_tracker.registered_nodes
        again = etcd_client.commit([], [put(layout, "node", etcd_client.grant(600))]) or 0
        wait_until(lambda: "node" in ack_tracker.registered_nodes)
        assert ack_tracker.registered_nodes["node"].revision == again
        assert not collector.has_left("node", again)


def test_a_node_that_registers_and_leaves_at_once_has_left(
    etcd_client: EtcdClient, layout: Layout, ack_tracker: AckTracker
) -> None:
    lease = etcd_client.grant(600)
    with ack_tracker.collect_for_existing_barrier("b") as collector:
        for _ in range(20):
            registration_revision = etcd_client.commit([], [put(layout, "node", lease)]) or 0
            etcd_client.commit([], [Delete(layout.node("node"))])
        wait_until(lambda: collector.has_left("node", registration_revision))
    assert not ack_tracker.registered_nodes


def test_a_watch_may_bring_hundreds_of_nodes_at_once(
    etcd_settings: EtcdSettings, etcd_client: EtcdClient, layout: Layout
) -> None:
    ack_tracker, lease = AckTracker(etcd_settings, etcd_client, layout), etcd_client.grant(600)
    puts = [put(layout, f"n{number}", lease) for number in range(300)]
    for first in range(0, 300, 100):
        revision = etcd_client.commit([], puts[first : first + 100]) or 0
    ack_tracker._on_nodes([Event(one.key, one.value, revision, one.lease) for one in puts], revision)
    assert len(ack_tracker.registered_nodes) == 300


def test_the_watch_brings_registrations_without_a_read_of_etcd(etcd_settings: EtcdSettings, layout: Layout) -> None:
    """A registration must not be lost because etcd does not answer a read. The event names the lease."""

    class Unreadable(EtcdClient):
        def read(self, *keys: str, timeout: float | None = None) -> Snapshot:
            raise EtcdUnavailable("planted")

    with Unreadable(etcd_settings) as etcd, AckTracker(etcd_settings, etcd, layout) as ack_tracker:
        wait_until(lambda: ack_tracker._nodes.connected)
        etcd.commit([], [put(layout, "node", etcd.grant(600)), put(layout, "odd")])
        wait_until(lambda: set(ack_tracker.registered_nodes) == {"node"})


def test_a_node_that_is_back_has_not_left_if_one_batch_brings_both(
    etcd_client: EtcdClient, layout: Layout, ack_tracker: AckTracker
) -> None:
    """A watch that was behind brings the node's end, its return and another node's registration together."""
    registration_revision = etcd_client.commit([], [put(layout, "node", etcd_client.grant(600))]) or 0
    end_revision = etcd_client.commit([], [Delete(layout.node("node"))]) or 0
    lease = etcd_client.grant(600)
    return_revision = etcd_client.commit([], [put(layout, "node", lease)]) or 0
    other_revision = etcd_client.commit([], [put(layout, "other", lease)]) or 0
    together = [
        Event(layout.node("node"), None, end_revision),
        Event(layout.node("node"), put(layout, "node").value, return_revision, lease),
        Event(layout.node("other"), put(layout, "other").value, other_revision, lease),
    ]
    with ack_tracker.collect_for_own_barrier("a-barrier") as collector:
        ack_tracker._on_nodes(together, other_revision)
        assert collector.has_left("node", registration_revision)
        assert not collector.has_left("node", return_revision)
