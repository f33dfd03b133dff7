"""What a receipt counts on, and what it does not let itself be made to do."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from authsvc.coordination.acknowledgements import AckTracker
from authsvc.revocation.receipts import Receipts, strict_after
from credmesh.store.v1 import mesh_pb2
from interceptors.etcd.client import Delete, EtcdClient, Put
from interceptors.keyspace import Layout
from interceptors.settings import LONGEST_FRESHNESS, EtcdSettings


@pytest.fixture
def layout(etcd_settings: EtcdSettings) -> Layout:
    return Layout(etcd_settings.prefix)


@pytest.fixture
def ack_tracker(etcd_settings: EtcdSettings, etcd_client: EtcdClient, layout: Layout) -> Iterator[AckTracker]:
    with AckTracker(etcd_settings, etcd_client, layout) as ack_tracker:
        yield ack_tracker


class Committing:
    """Commits what it is given, and counts how often."""

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


def test_where_too_many_wait_already_a_revocation_is_made_all_the_same(
    etcd_client: EtcdClient, layout: Layout, ack_tracker: AckTracker
) -> None:
    """Each that waits holds a thread, and one silent node holds them all: signing in must not wait behind them."""
    node(etcd_client, layout, "silent")
    receipts = Receipts(etcd_client, layout, ack_tracker, longest_freshness=30.0, at_once=0)
    commit = Committing(etcd_client)
    receipt = receipts.confirm(commit, patience=60.0)  # far beyond what a test may take
    assert commit.count == 1
    assert not receipt.complete
    assert 29 <= receipt.strict_in.ToSeconds() <= 31


def test_a_node_that_serves_under_a_longer_freshness_counts_for_it(
    etcd_client: EtcdClient, layout: Layout, ack_tracker: AckTracker
) -> None:
    node(etcd_client, layout, "lenient", longest_freshness=60)
    receipts = Receipts(etcd_client, layout, ack_tracker, longest_freshness=1.0)
    receipt = receipts.confirm(Committing(etcd_client), patience=0.2)
    assert receipt.longest_freshness.ToSeconds() == 60
    assert receipt.strict_in.ToSeconds() >= 59
    # A record that claims nonsense makes nobody wait for ever.
    node(etcd_client, layout, "mad", longest_freshness=1e9)
    receipt = receipts.confirm(Committing(etcd_client), patience=0.2)
    assert receipt.longest_freshness.ToSeconds() == LONGEST_FRESHNESS


def test_the_bound_leaves_room_for_clocks_that_do_not_run_alike() -> None:
    assert strict_after(10.0) > 10.0 * 1.001
    assert strict_after(10.0) < 10.1


def test_a_node_whose_record_or_answer_cannot_be_read_is_waited_for_and_named(
    etcd_client: EtcdClient, layout: Layout, ack_tracker: AckTracker
) -> None:
    etcd_client.commit([], [Put(layout.node("newer"), b"\xff\xff", etcd_client.grant(600))])
    receipts = Receipts(etcd_client, layout, ack_tracker, longest_freshness=1.0)
    begun = time.monotonic()
    receipt = receipts.confirm(Committing(etcd_client), patience=5.0)
    assert 1.0 <= time.monotonic() - begun < 2.0
    assert not receipt.complete
    assert [one.node_id for one in receipt.nodes] == ["newer"]


def test_an_empty_mesh_is_nothing_to_be_sure_of(
    etcd_client: EtcdClient, layout: Layout, ack_tracker: AckTracker
) -> None:
    receipts = Receipts(etcd_client, layout, ack_tracker, longest_freshness=1.0)
    receipt = receipts.confirm(Committing(etcd_client), patience=5.0)
    assert not receipt.complete
    assert receipt.strict_in.ToMilliseconds() > 500


def test_a_node_that_leaves_while_it_is_waited_for_is_told_from_one_that_lags(
    etcd_client: EtcdClient, layout: Layout, ack_tracker: AckTracker
) -> None:
    node(etcd_client, layout, "leaving")
    node(etcd_client, layout, "silent")

    def commit(operations: object) -> int:
        revision = Committing(etcd_client)(operations)
        etcd_client.commit([], [Delete(layout.node("leaving"))])
        return revision

    receipts = Receipts(etcd_client, layout, ack_tracker, longest_freshness=1.0)
    receipt = receipts.confirm(commit, patience=0.5)
    told = {one.node_id: one.lease_ended for one in receipt.nodes}
    # Read before or after it left, it is no longer waited for, and never taken for one that has applied anything.
    assert told.pop("leaving", True)
    assert told == {"silent": False}
    assert not receipt.complete
