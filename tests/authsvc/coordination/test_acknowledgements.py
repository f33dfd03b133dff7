"""Which registrations count as live nodes: a key without a lease does not, and no receipt waits for it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import pytest

from authsvc.coordination.acknowledgements import AckTracker
from authsvc.revocation.receipts import Receipts
from credmesh.store.v1 import mesh_pb2
from interceptors.etcd.client import Delete, EtcdClient, EtcdUnavailable, Put
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
    """What writes a node's record, as a node does or, without a lease, as a hand in etcd does."""
    return Put(layout.node(name), mesh_pb2.NodeRecord(format=1, node_id=name).SerializeToString(), lease)


def test_what_is_under_no_lease_makes_no_receipt_lag(
    etcd_client: EtcdClient, etcd_settings: EtcdSettings, layout: Layout, ack_tracker: AckTracker
) -> None:
    etcd_client.commit([], [put(layout, "odd")])

    def commit(operations: Sequence[Put | Delete]) -> int:
        revision = etcd_client.commit([], list(operations))
        assert revision is not None
        return revision

    settings = MeshSettings(etcd=etcd_settings, service="orders", issuer=ISSUER)
    with MeshNode(settings) as node:
        wait_until(lambda: node.id in ack_tracker.registered)
        begun = time.monotonic()
        receipt = Receipts(etcd_client, layout, ack_tracker, longest_freshness=10.0).confirm(commit, patience=10.0)
        assert receipt.complete
        assert [one.node_id for one in receipt.nodes] == [node.id]
        assert time.monotonic() - begun < 5.0


@pytest.mark.parametrize("early", [True, False], ids=["before the ack_tracker reads", "while it watches"])
def test_only_what_is_under_a_lease_is_registered(
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
        wait_until(lambda: ack_tracker.registered)
        assert set(ack_tracker.registered) == {"node"}
    assert f"{layout.node('odd')} is no node's" in caplog.text


def test_a_node_whose_entry_is_written_over_without_a_lease_has_left(
    etcd_client: EtcdClient, layout: Layout, ack_tracker: AckTracker
) -> None:
    """Its lease does not end that entry any more. If it lives, it notices and registers anew."""
    registered_at = etcd_client.commit([], [put(layout, "node", etcd_client.grant(600))]) or 0
    wait_until(lambda: "node" in ack_tracker.registered)
    with ack_tracker.listening("b", lambda: None) as waiting:
        assert not waiting.has_left("node", registered_at)
        etcd_client.commit([], [put(layout, "node")])
        wait_until(lambda: waiting.has_left("node", registered_at))
        assert not ack_tracker.registered
        again = etcd_client.commit([], [put(layout, "node", etcd_client.grant(600))]) or 0
        wait_until(lambda: "node" in ack_tracker.registered)
        assert ack_tracker.registered["node"].revision == again
        assert not waiting.has_left("node", again)


def test_a_node_that_comes_and_goes_at_once_has_left(
    etcd_client: EtcdClient, layout: Layout, ack_tracker: AckTracker
) -> None:
    lease = etcd_client.grant(600)
    with ack_tracker.listening("b", lambda: None) as waiting:
        for _ in range(20):
            registered_at = etcd_client.commit([], [put(layout, "node", lease)]) or 0
            etcd_client.commit([], [Delete(layout.node("node"))])
        wait_until(lambda: waiting.has_left("node", registered_at))
    assert not ack_tracker.registered


def test_as_many_nodes_as_a_watch_brings_at_once_are_registered(
    etcd_settings: EtcdSettings, etcd_client: EtcdClient, layout: Layout
) -> None:
    """A watch that was behind brings more than etcd takes keys in a transaction."""
    ack_tracker, lease = AckTracker(etcd_settings, etcd_client, layout), etcd_client.grant(600)
    puts = [put(layout, f"n{number}", lease) for number in range(300)]
    for first in range(0, 300, 100):
        revision = etcd_client.commit([], puts[first : first + 100]) or 0
    ack_tracker._on_nodes([Event(one.key, one.value, revision) for one in puts], revision)
    assert len(ack_tracker.registered) == 300


def test_nodes_are_read_anew_if_what_the_watch_brought_could_not_be_looked_up(
    etcd_settings: EtcdSettings, layout: Layout
) -> None:
    class Away(EtcdClient):
        away = True

        def read(self, *keys: str, timeout: float | None = None) -> object:  # type: ignore[override]
            if self.away:
                type(self).away = False
                raise EtcdUnavailable("planted")
            return super().read(*keys, timeout=timeout)

    with Away(etcd_settings) as etcd, AckTracker(etcd_settings, etcd, layout) as ack_tracker:
        wait_until(lambda: ack_tracker._nodes.connected)
        etcd.commit([], [put(layout, "node", etcd.grant(600)), put(layout, "odd")])
        wait_until(lambda: set(ack_tracker.registered) == {"node"})
        assert not etcd.away


def test_a_node_that_is_back_has_not_left_however_much_the_watch_brings_at_once(
    etcd_client: EtcdClient, layout: Layout, ack_tracker: AckTracker
) -> None:
    """A watch that lagged brings its end, its return and somebody else's arrival together."""
    registered_at = etcd_client.commit([], [put(layout, "node", etcd_client.grant(600))]) or 0
    gone_at = etcd_client.commit([], [Delete(layout.node("node"))]) or 0
    back_at = etcd_client.commit([], [put(layout, "node", etcd_client.grant(600))]) or 0
    other_at = etcd_client.commit([], [put(layout, "other", etcd_client.grant(600))]) or 0
    together = [
        Event(layout.node("node"), None, gone_at),
        Event(layout.node("node"), put(layout, "node").value, back_at),
        Event(layout.node("other"), put(layout, "other").value, other_at),
    ]
    with ack_tracker.waiting("a-barrier") as waiting:
        ack_tracker._on_nodes(together, other_at)
        assert waiting.has_left("node", registered_at)
        assert not waiting.has_left("node", back_at)
