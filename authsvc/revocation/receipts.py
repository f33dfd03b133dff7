"""Receipts: a revocation that is confirmed by the nodes, or bounded by their freshness.

The revocation and a barrier are one commit, and a node that acknowledges the barrier has applied the revocation. One
that does not, registered or not, frozen or cut off, serves a method with a freshness rule only while its last proof of
freshness is younger than the rule allows; and a proof that was sent after the commit was known cannot succeed without
the revocation being applied. So from the longest freshness after that moment on, no node accepts on such a method what
was revoked. The clocks on both sides are monotonic, and need only run about equally fast.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import grpc
from prometheus_client import Histogram

from authsvc.audit import audit
from authsvc.coordination import barriers
from authsvc.coordination.acknowledgements import AckCollector, AckTracker, RegisteredNode
from authsvc.store.shared_leases import SharedLeases
from authsvc.store.timestamps import duration, stamp
from credmesh.admin.v1 import receipt_pb2
from interceptors.clock import ticks
from interceptors.etcd.client import Delete, EtcdClient, EtcdUnavailable, LeaseNotFound, Put
from interceptors.keyspace import Layout, moved_beacon
from interceptors.settings import LONGEST_FRESHNESS
from interceptors.trust.continuity import Beacon

__all__ = ["CommitRevocation", "Receipts", "strict_after"]

_log: Final = logging.getLogger("credmesh.auth.receipts")
_seconds: Final = Histogram(
    "credmesh_auth_receipt_seconds",
    "From a revocation's commit to its receipt.",
    ("complete",),
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)

CommitRevocation = Callable[[Sequence[Put | Delete]], int]
"""Commits a revocation together with these operations, the beacon among them; its revision. Raises if there is nothing
to revoke."""

_DRIFT: Final = 0.002
"""By how much two machines' clocks may run at different rates. The bound is reckoned here and at the nodes by a clock
that nobody steers (interceptors.clock), and oscillators differ by less than a tenth of this."""
_MARGIN: Final = 0.01
_AFTERWARDS: Final = 60.0
"""Seconds that a barrier outlives the longest wait for it, if nobody takes it back."""
_LOOK_AGAIN: Final = 1.0


def strict_after(longest_freshness: float) -> float:
    """Seconds from when a commit was known until no node serves a strict method without having applied it."""
    return longest_freshness * (1 + _DRIFT) + _MARGIN


class Receipts:
    """Waits for nodes, and writes down what they say. Thread-safe; every replica may do it.

    longest_freshness  seconds: the mesh's CREDMESH_LONGEST_FRESHNESS. A registered node that says more counts for more
    at_once            so many may be waited for: each holds a thread, and one silent node makes all of them wait
    remember           is told of each revocation before its receipt is given out, and when its commit was sent: what
                       the receipt promises has to hold in an etcd that is restored from a backup too, so somebody must
                       know that it is missing there. Raises EtcdUnavailable if it may have come too late for that
    clock              seconds since 1970, for people to read
    """

    def __init__(
        self,
        etcd: EtcdClient,
        layout: Layout,
        ack_tracker: AckTracker,
        *,
        longest_freshness: float,
        at_once: int = 48,
        remember: Callable[[Beacon, float], None] = lambda _beacon, _sent_at: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._etcd = etcd
        self._layout = layout
        self._ack_tracker = ack_tracker
        self._longest_freshness = longest_freshness
        self._remember = remember
        self._clock = clock
        self._slots = threading.BoundedSemaphore(at_once)
        # Should this replica die, its barriers go by themselves.
        self._leases = SharedLeases(etcd, layout, strict_after(longest_freshness) + _AFTERWARDS, clock=clock)

    def confirm(
        self, commit: CommitRevocation, *, patience: float, context: grpc.ServicerContext | None = None
    ) -> receipt_pb2.Receipt:
        """Commits a revocation and waits for the nodes to apply it.

        Returns when every registered node has acknowledged, at the strict bound, or after `patience` seconds, whichever
        comes first, and whatever becomes of etcd meanwhile. What `commit` raises is passed on, and EtcdUnavailable.
        Where too many are waited for already it does not wait at all: what was asked for is done, and
        the strict bound holds as ever.

        context: nobody waits any more when this call is over.
        """
        may_wait = self._slots.acquire(blocking=False)
        try:
            return self._confirm(commit, patience if may_wait else 0.0, context)
        finally:
            if may_wait:
                self._slots.release()

    def _confirm(
        self, commit: CommitRevocation, patience: float, context: grpc.ServicerContext | None
    ) -> receipt_pb2.Receipt:
        barrier_id = f"receipt-{secrets.token_hex(8)}"
        with self._ack_tracker.waiting(barrier_id) as waiting:
            if context is not None and not context.add_callback(waiting.cancel):
                waiting.cancel()  # the call is over; what was asked for is done all the same
            sent_at = ticks()
            committed = self._commit(commit, barrier_id)
            revision = committed.revision
            strict_since = ticks()
            known_at, committed_at = time.monotonic(), self._clock()
            self._remember(committed, sent_at)
            nodes, all_are_listed = self._wait(waiting, revision, known_at, patience)
            receipt = self._write(waiting, nodes, revision, known_at, committed_at)
            # By another clock than the waiting: see _DRIFT.
            in_all = strict_after(receipt.longest_freshness.ToNanoseconds() / 1e9)
            receipt.strict_in.CopyFrom(duration(strict_since + in_all - ticks()))
            # A list that could not be read may lack somebody.
            receipt.complete = receipt.complete and all_are_listed
        _seconds.labels(str(receipt.complete).lower()).observe(time.monotonic() - known_at)
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
        """Commits the revocation; the beacon that tells it from every other commit."""
        beacon = moved_beacon(self._layout)
        for last_try in (False, True):
            raised = barriers.raised(self._layout, barrier_id, "receipt", lease=self._leases.lease())
            try:
                return Beacon(commit([raised, beacon]), beacon.value)
            except LeaseNotFound:
                self._leases.forget()
                if last_try:
                    raise
        raise AssertionError("the last try returns or raises")

    def _wait(
        self, waiting: AckCollector, revision: int, known_at: float, patience: float
    ) -> tuple[dict[str, RegisteredNode], bool]:
        """Waits; the nodes that were registered at some time between the commit and now, and if these are all."""
        nodes = dict(self._ack_tracker.registered)
        pending: list[tuple[str, RegisteredNode]] = []
        looked = False

        def all_applied() -> bool:
            # Whoever is done stays done: each node is passed once, whatever the number of answers that come in.
            while pending and _done(waiting, *pending[-1], revision):
                pending.pop()
            return looked and not pending

        while True:
            deadline = known_at + min(patience, strict_after(self._longest(nodes)))
            now = time.monotonic()
            if now >= deadline or waiting.cancelled:
                return nodes, looked
            try:
                # The list counts that is read after the commit: a node that registers later than that reads the mesh
                # later still, and holds the revocation.
                nodes |= self._ack_tracker.look(waiting, min(_LOOK_AGAIN, deadline - now))
                pending, looked = list(nodes.items()), True
            except EtcdUnavailable as error:
                _log.info("the nodes cannot be read while a receipt is waited for: %s", error)
            if waiting.wait(all_applied, min(deadline, time.monotonic() + _LOOK_AGAIN)):
                return nodes, looked

    def _longest(self, nodes: Mapping[str, RegisteredNode]) -> float:
        theirs = (node.record.longest_freshness.ToNanoseconds() / 1e9 for node in nodes.values())
        return min(max(self._longest_freshness, *theirs, 0.0), LONGEST_FRESHNESS)

    def _write(
        self,
        waiting: AckCollector,
        nodes: Mapping[str, RegisteredNode],
        revision: int,
        known_at: float,
        committed_at: float,
    ) -> receipt_pb2.Receipt:
        answers = waiting.answers
        longest = self._longest(nodes)
        receipt = receipt_pb2.Receipt(
            revision=revision,
            committed_at=stamp(committed_at),
            strict_from=stamp(committed_at + strict_after(longest)),
            longest_freshness=duration(longest),
        )
        complete = bool(nodes)
        for node_id in sorted(nodes):
            node, answer = nodes[node_id], answers.get(node_id)
            line = receipt.nodes.add(
                node_id=node_id,
                service=node.record.service,
                address=node.record.address,
                state=receipt_pb2.NodeReceipt.STATE_LAGGING,
                lease_ended=waiting.has_left(node_id, node.revision),
            )
            if answer is not None and answer.revision >= revision:
                line.state = receipt_pb2.NodeReceipt.STATE_APPLIED
                line.applied_after.CopyFrom(duration(answer.at - known_at))
                line.streams_ended = answer.streams_ended
                if answer.freshness_age is not None:
                    line.freshness_age.CopyFrom(duration(answer.freshness_age))
            elif not line.lease_ended:
                complete = False
        receipt.complete = complete
        receipt.streams_ended = sum(line.streams_ended for line in receipt.nodes)
        return receipt


def _done(waiting: AckCollector, node_id: str, node: RegisteredNode, revision: int) -> bool:
    return waiting.has_applied(node_id, revision) or waiting.has_left(node_id, node.revision)
