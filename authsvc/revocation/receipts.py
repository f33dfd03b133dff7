"""Receipts: which nodes have applied a revocation, and from when on all others refuse it on strict methods.

The revocation and a barrier are one commit. A node that acknowledges the barrier has applied the revocation.

A node that does not acknowledge, registered or not, frozen or cut off, is bounded by its own freshness. It serves a
strict method only while its last proof of freshness is younger than the method's rule allows. A proof whose read was
sent after this replica knew of the commit counts only if the node has applied the revocation. So when the longest
freshness has passed since that moment, no node accepts the revoked credential on a strict method. This is the strict
bound. The clocks on both sides are monotonic, and only need to run at nearly the same rate.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from prometheus_client import Histogram

from authsvc.audit import audit
from authsvc.coordination import barriers
from authsvc.coordination.acknowledgements import AckCollector, AckTracker, RegisteredNode
from authsvc.store.shared_leases import SharedLeases
from authsvc.store.timestamps import duration, stamp
from credmesh.admin.v1 import receipt_pb2
from interceptors.clock import ticks
from interceptors.etcd.client import Delete, EtcdClient, EtcdUnavailable, LeaseNotFound, Put
from interceptors.keyspace import Layout, beacon_update
from interceptors.settings import MAX_FRESHNESS_SECONDS
from interceptors.trust.continuity import Beacon

__all__ = ["CommitRevocation", "OnCallEnd", "Receipts", "strict_bound"]

_log: Final = logging.getLogger("credmesh.auth.receipts")
_receipt_seconds: Final = Histogram(
    "credmesh_auth_receipt_seconds",
    "From a revocation's commit to its receipt.",
    ("complete",),
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)

CommitRevocation = Callable[[Sequence[Put | Delete]], int]
"""Commits a revocation together with these operations, the beacon's put among them. Returns the commit's revision.
Raises if there is nothing to revoke."""

OnCallEnd = Callable[[Callable[[], None]], bool]
"""Registers a callback for the end of a call. Returns False if the call has ended already."""

_MAX_CLOCK_DRIFT: Final = 0.002
"""By how much the clocks of two machines may differ in rate. Both sides use interceptors.clock, which is never
adjusted, and the rates of oscillators differ by less than a tenth of this."""
_MARGIN_SECONDS: Final = 0.01
_BARRIER_SECONDS_AFTER_WAIT: Final = 60.0
"""How long a barrier that is not removed outlives the longest wait for it."""
_POLL_INTERVAL_SECONDS: Final = 1.0
_DEFAULT_MAX_WAITING: Final = 48


def strict_bound(longest_freshness: float) -> float:
    """Returns the strict bound, in seconds since this replica knew of a commit.

    When it has passed, every node has applied the commit or is too stale for strict methods.
    """
    return longest_freshness * (1 + _MAX_CLOCK_DRIFT) + _MARGIN_SECONDS


class Receipts:
    """Commits revocations, waits for the nodes, and makes receipts. Thread-safe; any replica may do it.

    longest_freshness  the mesh's CREDMESH_LONGEST_FRESHNESS in seconds. If the registration of a node names a longer
                       freshness, the bound follows from that
    max_waiting        how many calls may wait at a time: each holds a thread, and one silent node delays all of them
    remember_commit    called with each commit, and the time at which it was sent, before its receipt is given out. The
                       receipt's promise must also hold if etcd is restored from a backup, so the commit's loss must be
                       found then. Raises EtcdUnavailable if the commit may be lost already
    clock              seconds since 1970, for people to read
    """

    def __init__(
        self,
        etcd: EtcdClient,
        layout: Layout,
        ack_tracker: AckTracker,
        *,
        longest_freshness: float,
        max_waiting: int = _DEFAULT_MAX_WAITING,
        remember_commit: Callable[[Beacon, float], None] = lambda _beacon, _sent_at: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._etcd = etcd
        self._layout = layout
        self._ack_tracker = ack_tracker
        self._longest_freshness = longest_freshness
        self._remember_commit = remember_commit
        self._clock = clock
        self._wait_slots = threading.BoundedSemaphore(max_waiting)
        # If this replica dies, its barriers expire with their lease.
        barrier_seconds = strict_bound(longest_freshness) + _BARRIER_SECONDS_AFTER_WAIT
        self._leases = SharedLeases(etcd, layout, barrier_seconds, clock=clock)

    def confirm(
        self, commit: CommitRevocation, *, timeout: float, on_call_end: OnCallEnd | None = None
    ) -> receipt_pb2.Receipt:
        """Commits a revocation, waits until every registered node has applied it, and returns the receipt.

        The wait also ends at the strict bound, after `timeout` seconds, and when the call ends, even if etcd is
        unavailable meanwhile. If too many calls wait already, there is no wait: the receipt says what is known, and the
        strict bound holds as in every receipt.

        Raises what `commit` raises, and EtcdUnavailable.
        """
        may_wait = self._wait_slots.acquire(blocking=False)
        try:
            return self._confirm(commit, timeout if may_wait else 0.0, on_call_end)
        finally:
            if may_wait:
                self._wait_slots.release()

    def _confirm(self, commit: CommitRevocation, timeout: float, on_call_end: OnCallEnd | None) -> receipt_pb2.Receipt:
        barrier_id = f"receipt-{secrets.token_hex(8)}"
        with self._ack_tracker.collect_for_own_barrier(barrier_id) as collector:
            if on_call_end is not None and not on_call_end(collector.cancel):
                collector.cancel()  # the call has ended; the revocation is committed regardless
            sent_at = ticks()
            beacon = self._commit(commit, barrier_id)
            revision = beacon.revision
            known_at_ticks = ticks()
            known_at, committed_at = time.monotonic(), self._clock()
            self._remember_commit(beacon, sent_at)
            nodes, nodes_were_read = self._wait_for_nodes(collector, revision, known_at, timeout)
            receipt = self._make_receipt(collector, nodes, revision, known_at, committed_at)
            # The bound counts by interceptors.clock, which goes on while the machine sleeps (see _MAX_CLOCK_DRIFT). The
            # wait uses time.monotonic, as threading does.
            bound = strict_bound(receipt.longest_freshness.ToNanoseconds() / 1e9)
            receipt.strict_in.CopyFrom(duration(known_at_ticks + bound - ticks()))
            # Without a read after the commit, the list of nodes may lack one.
            receipt.complete = receipt.complete and nodes_were_read
        _receipt_seconds.labels(str(receipt.complete).lower()).observe(time.monotonic() - known_at)
        lagging = [node.node_id for node in receipt.nodes if node.state == receipt_pb2.NodeReceipt.STATE_LAGGING]
        audit(
            "receipt",
            revision=revision,
            complete=receipt.complete,
            nodes=len(receipt.nodes),
            lagging=lagging,
            streams_ended=receipt.streams_ended,
            seconds=round(time.monotonic() - known_at, 4),
        )
        return receipt

    def _commit(self, commit: CommitRevocation, barrier_id: str) -> Beacon:
        """Commits the revocation with its barrier. Returns the beacon that the commit has put."""
        beacon = beacon_update(self._layout)
        for last_attempt in (False, True):
            barrier = barriers.raise_operation(self._layout, barrier_id, "receipt", lease=self._leases.lease())
            try:
                return Beacon(commit([barrier, beacon]), beacon.value)
            except LeaseNotFound:
                self._leases.forget()
                if last_attempt:
                    raise
        raise AssertionError("the last attempt returns or raises")

    def _wait_for_nodes(
        self, collector: AckCollector, revision: int, known_at: float, timeout: float
    ) -> tuple[dict[str, RegisteredNode], bool]:
        """Waits until every registered node has applied the revision or has left.

        Returns the nodes that were registered at some time since the commit, and whether they were read after it.
        """
        nodes = dict(self._ack_tracker.registered_nodes)
        pending: list[tuple[str, RegisteredNode]] = []
        nodes_were_read = False

        def all_settled() -> bool:
            # A settled node stays settled. So each node is checked once, however many acknowledgements come in.
            while pending and _is_settled(collector, *pending[-1], revision):
                pending.pop()
            return nodes_were_read and not pending

        while True:
            deadline = known_at + min(timeout, strict_bound(self._longest_freshness_of(nodes)))
            now = time.monotonic()
            if now >= deadline or collector.cancelled:
                return nodes, nodes_were_read
            try:
                # The receipt covers the nodes that are read after the commit. A node that registers after this read
                # reads the mesh later still, and so applies the revocation before it serves.
                nodes |= self._ack_tracker.read_acks_and_nodes(collector, min(_POLL_INTERVAL_SECONDS, deadline - now))
                pending, nodes_were_read = list(nodes.items()), True
            except EtcdUnavailable as error:
                _log.info("the nodes cannot be read during the wait for a receipt: %s", error)
            if collector.wait_until(all_settled, min(deadline, time.monotonic() + _POLL_INTERVAL_SECONDS)):
                return nodes, nodes_were_read

    def _longest_freshness_of(self, nodes: Mapping[str, RegisteredNode]) -> float:
        """The longest freshness that any node may serve under: the mesh's, or what a registration names if longer."""
        theirs = (node.record.longest_freshness.ToNanoseconds() / 1e9 for node in nodes.values())
        return min(max(self._longest_freshness, *theirs, 0.0), MAX_FRESHNESS_SECONDS)

    def _make_receipt(
        self,
        collector: AckCollector,
        nodes: Mapping[str, RegisteredNode],
        revision: int,
        known_at: float,
        committed_at: float,
    ) -> receipt_pb2.Receipt:
        acks = collector.acks
        longest = self._longest_freshness_of(nodes)
        receipt = receipt_pb2.Receipt(
            revision=revision,
            committed_at=stamp(committed_at),
            strict_from=stamp(committed_at + strict_bound(longest)),
            longest_freshness=duration(longest),
        )
        # Every auth replica is a node itself, so an empty list means that the nodes are not known.
        complete = bool(nodes)
        for node_id in sorted(nodes):
            node, ack = nodes[node_id], acks.get(node_id)
            line = receipt.nodes.add(
                node_id=node_id,
                service=node.record.service,
                address=node.record.address,
                state=receipt_pb2.NodeReceipt.STATE_LAGGING,
                lease_ended=collector.has_left(node_id, node.revision),
            )
            if ack is not None and ack.revision >= revision:
                line.state = receipt_pb2.NodeReceipt.STATE_APPLIED
                line.applied_after.CopyFrom(duration(ack.at - known_at))
                line.streams_ended = ack.streams_ended
                if ack.freshness_age is not None:
                    line.freshness_age.CopyFrom(duration(ack.freshness_age))
            elif not line.lease_ended:  # "complete" is about nodes that are still registered (receipt.proto)
                complete = False
        receipt.complete = complete
        receipt.streams_ended = sum(line.streams_ended for line in receipt.nodes)
        return receipt


def _is_settled(collector: AckCollector, node_id: str, node: RegisteredNode, revision: int) -> bool:
    """Whether the receipt need not wait for a node any more: it has applied the revision, or has left."""
    return collector.has_applied(node_id, revision) or collector.has_left(node_id, node.revision)
