"""What a receipt promises, and the limits of what a receipt waits for."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from authsvc.coordination.acknowledgements import AckTracker
from authsvc.revocation.receipts import Receipts, strict_bound
from credmesh.store.v1 import mesh_pb2
from interceptors.etcd.client import Delete, EtcdClient, Put
from interceptors.keyspace import Layout
from interceptors.settings import MAX_FRESHNESS_SECONDS, EtcdSettings


@pytest.fixture
def layout(etcd_settings: EtcdSettings) -> Layout:
    return Layout(etcd_settings.prefix)


@pytest.fixture
def ack_tracker(etcd_settings: EtcdSettings, etcd_client: EtcdClient, layout: Layout) -> Iterator[AckTracker]:
    with AckTracker(etcd_settings, etcd_client, layout) as ack_tracker:
        yield ack_tracker


class Committing:
    """Commits the operations of a receipt, and counts the commits."""

    def __init__(self, etcd: EtcdClient) -> None:
        self.count = 0
        self._etcd = etcd

    def __call__(self, operations: object) -> int:
        self.count += 1
        revision = self._etcd.commit([], list(operations))  # type: ignore[call-overload]
        assert revision is not None
        return int(revision)


def node(etcd: EtcdClient, layout: Layout, name: str, *, longest_freshness: float = 0) -> None:
    record = mesh_pb2.NodeRecord(format=1, node_id=name)
    if longest_freshness:
        record.longest_freshness.FromNanoseconds(int(longest_freshness * 1e9))
    etcd.commit([], [Put(layout.node(name), record.SerializeToString(), etcd.grant(600))])


def test_if_too_many_calls_wait_a_revocation_is_committed_without_a_wait(
    etcd_client: EtcdClient, layout: Layout, ack_tracker: AckTracker
) -> None:
    """Each wait holds a thread, and one silent node delays them all. Logins must not queue behind them."""
    node(etcd_client, layout, "silent")
    receipts = Receipts(etcd_client, layout, ack_tracker, longest_freshness=30.0, max_waiting=0)
    commit = Committing(etcd_client)
    receipt = receipts.confirm(commit, timeout=60.0)  # far beyond what a test may take
    assert commit.count == 1
    assert not receipt.complete
    assert 29 <= receipt.strict_in.ToSeconds() <= 31


def test_a_node_that_names_a_longer_freshness_makes_the_bound_longer(
    etcd_client: EtcdClient, layout: Layout, ack_tracker: AckTracker
) -> None:
    node(etcd_client, layout, "lenient", longest_freshness=60)
    receipts = Receipts(etcd_client, layout, ack_tracker, longest_freshness=1.0)
    receipt = receipts.confirm(Committing(etcd_client), timeout=0.2)
    assert receipt.longest_freshness.ToSeconds() == 60
    assert receipt.strict_in.ToSeconds() >= 59
    # A registration that names nonsense does not make the bound longer than any setting may.
    node(etcd_client, layout, "mad", longest_freshness=1e9)
    receipt = receipts.confirm(Committing(etcd_client), timeout=0.2)
    assert receipt.longest_freshness.ToSeconds() == MAX_FRESHNESS_SECONDS


def test_the_bound_allows_for_clocks_of_different_rates() -> None:
    assert strict_bound(10.0) > 10.0 * 1.001
    assert strict_bound(10.0) < 10.1


def test_a_node_whose_registration_cannot_be_read_is_waited_for_and_named(
    etcd_client: EtcdClient, layout: Layout, ack_tracker: AckTracker
) -> None:
    etcd_client.commit([], [Put(layout.node("newer"), b"\xff\xff", etcd_client.grant(600))])
    receipts = Receipts(etcd_client, layout, ack_tracker, longest_freshness=1.0)
    begun = time.monotonic()
    receipt = receipts.confirm(Committing(etcd_client), timeout=5.0)
    assert 1.0 <= time.monotonic() - begun < 2.0
    assert not receipt.complete
    assert [one.node_id for one in receipt.nodes] == ["newer"]


def test_a_receipt_without_any_node_is_not_complete(
    etcd_client: EtcdClient, layout: Layout, ack_tracker: AckTracker
) -> None:
    receipts = Receipts(etcd_client, layout, ack_tracker, longest_freshness=1.0)
    receipt = receipts.confirm(Committing(etcd_client), timeout=5.0)
    assert not receipt.complete
    assert receipt.strict_in.ToMilliseconds() > 500


def test_a_node_that_leaves_during_the_wait_is_told_from_one_that_lags(
    etcd_client: EtcdClient, layout: Layout, ack_tracker: AckTracker
) -> None:
    node(etcd_client, layout, "leaving")
    node(etcd_client, layout, "silent")

    def commit(operations: object) -> int:
        revision = Committing(etcd_client)(operations)
        etcd_client.commit([], [Delete(layout.node("leaving"))])
        return revision

    receipts = Receipts(etcd_client, layout, ack_tracker, longest_freshness=1.0)
    receipt = receipts.confirm(commit, timeout=0.5)
    left = {node.node_id: node.lease_ended for node in receipt.nodes}
    # Whether the nodes were read before or after it left, the node is not waited for, and never counts as applied.
    assert left.pop("leaving", True)
    assert left == {"silent": False}
    assert not receipt.complete
