"""A node's heartbeat: registering, acknowledging barriers, and proving freshness.

One thread does all three, so their order is fixed: the node registers before it reads the mesh prefix for the first
time (a barrier that is raised later must wait for it), and acknowledges a barrier only after applying its revision.

The heartbeat makes the proofs of freshness. TrustBundle.add_proof decides whether a proof counts.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from credmesh.store.v1 import mesh_pb2
from interceptors.backoff import Backoff
from interceptors.clock import ticks
from interceptors.etcd.client import EtcdClient, EtcdRefused, EtcdUnavailable, LeaseNotFound, Put, Unchanged
from interceptors.etcd.lease import RenewableLease
from interceptors.keyspace import Layout
from interceptors.stored_records import FORMAT
from interceptors.trust.bundle import TrustBundle
from interceptors.trust.continuity import Beacon, Continuity
from interceptors.trust.continuity_monitor import MAX_SILENCE_SECONDS

__all__ = ["AppliedBarrier", "Heartbeat"]

_log: Final = logging.getLogger("credmesh.node")

_PROOF_INTERVAL_SECONDS: Final = 1.0
_PROOF_TIMEOUT_SECONDS: Final = 2.0
_COMMIT_TIMEOUT_SECONDS: Final = 1.5
"""Short, so that an etcd member that hangs does not keep this node from proving its freshness by the others."""
_MAX_WATCH_LAG_SECONDS: Final = 1.5
_FIRST_BACKOFF_SECONDS: Final = 0.1
_LONGEST_BACKOFF_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class AppliedBarrier:
    """A barrier whose revision this node has applied, and how many open streams it has ended for that revision."""

    barrier_id: str
    revision: int
    streams_ended: int = 0


class Heartbeat:
    """The thread that keeps a node registered and proves how fresh its trust bundle is.

    Both callbacks run in that thread.

    on_registered     called after the first registration
    on_watch_lagging  called when the watch has lagged behind the reads for a while, or follows another etcd than they
                      do
    """

    def __init__(
        self,
        client: EtcdClient,
        layout: Layout,
        bundle: TrustBundle,
        record: mesh_pb2.NodeRecord,
        *,
        lease_ttl: int,
        on_registered: Callable[[], None],
        on_watch_lagging: Callable[[], None],
    ) -> None:
        self._client = client
        self._layout = layout
        self._bundle = bundle
        self._record = record
        self._lease_ttl = lease_ttl
        self._on_registered: Callable[[], None] | None = on_registered
        self._on_watch_lagging = on_watch_lagging
        self._awaited_revision = 0  # the watch has to bring it, since a read has returned it
        self._awaited_since = 0.0
        # applied barriers to acknowledge; None wakes the thread
        self._queue: queue.SimpleQueue[AppliedBarrier | None] = queue.SimpleQueue()
        self._refused_acks: list[AppliedBarrier] = []  # etcd refused to write them; retried with every proof
        self._thread = threading.Thread(target=self._run, name="credmesh-heartbeat", daemon=True)
        self._stopping = False
        self._lease: RenewableLease | None = None
        self._registration_revision = 0  # the revision of this node's record
        self._renew_at = 0.0
        self._prove_at = 0.0
        self._answered_sent_at = 0.0  # when the newest answered proof or record write was sent, by interceptors.clock
        self._unavailable = False  # whether the log says that etcd does not answer
        self._acks_refused = False  # whether the log says that etcd refuses acknowledgements

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread and deletes the node's record, so that no barrier waits for this node."""
        self._stopping = True
        self._queue.put(None)
        if self._thread.ident is not None:
            self._thread.join(timeout=10)

    def wake(self) -> None:
        """Makes the thread check at once whether the node's record has to change."""
        self._queue.put(None)

    def acknowledge(self, applied: AppliedBarrier) -> None:
        """Queues the acknowledgement of a barrier whose revision was applied and whose streams were ended."""
        self._queue.put(applied)

    def _run(self) -> None:
        backoff = Backoff(_FIRST_BACKOFF_SECONDS, _LONGEST_BACKOFF_SECONDS)
        while not self._stopping:
            try:
                self._beat()
                backoff.reset()
            except LeaseNotFound:
                _log.warning("this node's lease is gone; registering again")
                self._lease = None
            except EtcdUnavailable as error:
                self._log_unavailable(error)
                self._wait(backoff.next_delay())
                if not isinstance(error, EtcdRefused):
                    # A request without an answer has already waited for its timeout, so only refusals back off.
                    backoff.reset()
            except Exception:  # noqa: BLE001 - logged; the thread must live
                # Meanwhile the node grows stale and its lease runs out, which is right for a node that does not work.
                _log.exception("the node's heartbeat failed; the next one is in %.0f s", _LONGEST_BACKOFF_SECONDS)
                self._wait(_LONGEST_BACKOFF_SECONDS)
        self._deregister()

    def _beat(self) -> None:
        """Does what is due now, then waits until something else is due or there is a barrier to acknowledge."""
        if self._lease is None:
            self._register()
        now = time.monotonic()
        if now >= self._renew_at:
            self._renew_lease(now)
        if self._record.broken_history != self._bundle.monitor.broken_history:
            self._write_record()
        if now >= self._prove_at:
            self._prove_at = now + _PROOF_INTERVAL_SECONDS if self._prove_freshness() else now
            for applied in self._refused_acks:
                self._queue.put(applied)
            self._refused_acks.clear()
        barrier = self._next_barrier(min(self._renew_at, self._prove_at) - time.monotonic())
        if barrier is not None:
            try:
                self._acknowledge(barrier)
                self._acks_refused = False
            except EtcdUnavailable as error:
                if not isinstance(error, EtcdRefused) or isinstance(error, LeaseNotFound):
                    self._queue.put(barrier)
                    raise
                # A full etcd refuses writes, perhaps for hours. Meanwhile this node goes on proving its freshness.
                self._refused_acks.append(barrier)
                self._log_refused_acks(error)
        if self._unavailable:
            self._unavailable = False
            _log.info("etcd answers again")

    def _next_barrier(self, timeout: float) -> AppliedBarrier | None:
        try:
            return self._queue.get(timeout=max(timeout, 0.0))
        except queue.Empty:
            return None

    def _wait(self, seconds: float) -> None:
        """Waits, or returns early when the node is stopped. Barriers stay queued."""
        held: list[AppliedBarrier] = []
        end = time.monotonic() + seconds
        while not self._stopping and time.monotonic() < end:
            barrier = self._next_barrier(end - time.monotonic())
            if barrier is not None:
                held.append(barrier)
        for barrier in held:
            self._queue.put(barrier)

    def _register(self) -> None:
        self._lease = RenewableLease(self._client, self._lease_ttl)
        self._renew_at = time.monotonic() + self._lease_ttl / 3
        self._record.registered_at.CopyFrom(_now())
        try:
            self._write_record()
        except BaseException:
            self._lease = None
            raise
        if self._on_registered is not None:
            self._on_registered()
            self._on_registered = None
            return
        # The acknowledgements under the old lease are gone, so those of applied barriers are written again. The watch
        # brings the barriers that are not applied yet.
        monitor = self._bundle.monitor
        since = monitor.observed
        try:
            found = self._client.read_prefix(self._layout.barriers)
        except BaseException:
            # Registered, but without knowing its barriers, this node would never acknowledge them, and a rotation would
            # wait for it. So it registers once more.
            self._lease = None
            raise
        if monitor.loss or found.revision < since.revision:
            return  # the applied revisions belong to another history
        for key, entry in found.values.items():
            if entry.mod_revision <= self._bundle.revision:
                self.acknowledge(AppliedBarrier(key.removeprefix(self._layout.barriers), entry.mod_revision))

    def _write_record(self) -> None:
        """Writes this node's record. The auth service then vouches for etcd's history again."""
        assert self._lease is not None  # noqa: S101 - the callers hold a lease
        monitor = self._bundle.monitor
        self._record.broken_history = monitor.broken_history
        put = Put(self._layout.node(self._record.node_id), self._record.SerializeToString(), self._lease.id)
        sent_at = ticks()
        revision = self._client.commit([], [put], timeout=_COMMIT_TIMEOUT_SECONDS)
        if revision is None:  # for mypy: a commit without conditions returns a revision
            raise EtcdUnavailable("the node's record could not be written")
        monitor.require_vouch_after(revision)
        self._registration_revision = revision
        self._answered_sent_at = sent_at

    def _renew_lease(self, now: float) -> None:
        if self._lease is not None and self._lease.renew():
            self._renew_at = now + self._lease_ttl / 3
            return
        _log.warning("this node's lease has run out, since it was not renewed in time; registering again")
        self._lease = None  # a failure of the next line must not leave an expired lease behind
        self._register()

    def _prove_freshness(self) -> bool:
        """Proves this node's freshness by a linearizable read, and checks etcd's history and this node's record.

        Returns False if the answer came too late to prove anything.
        """
        monitor = self._bundle.monitor
        if ticks() - self._answered_sent_at > MAX_SILENCE_SECONDS:
            # etcd may have been restored meanwhile and have lost commits that this node has not seen. Writing the
            # record makes the auth service vouch for the history again.
            self._write_record()
        record_key = self._layout.node(self._record.node_id)
        since, history_generation = monitor.observed, monitor.history_generation
        unseen_epoch = monitor.highest_unseen_epoch()
        sent_at = ticks()
        found = self._client.read(self._layout.beacon, self._layout.history, record_key, timeout=_PROOF_TIMEOUT_SECONDS)
        continuity = self._bundle.record_read(since, found)
        if ticks() - self._answered_sent_at > MAX_SILENCE_SECONDS:
            # What counts is when the answer came, not when the read was sent: etcd may have been restored in between.
            return False
        if continuity is Continuity.UNBROKEN:
            monitor.resolve_unseen_epoch(unseen_epoch, found.revision)
            entry = found.values.get(self._layout.beacon)
            beacon = Beacon(0) if entry is None else Beacon(entry.mod_revision, entry.value)
            self._bundle.add_proof(beacon, sent_at, history_generation)
            self._check_watch_lag(beacon.revision, sent_at)
        elif continuity is Continuity.NEW_HISTORY:
            # A watch of the same etcd would have brought the new history. This one may be of an etcd that was replaced.
            self._on_watch_lagging()
        self._answered_sent_at = sent_at
        record = found.values.get(record_key)
        if record is None or record.mod_revision != self._registration_revision:
            _log.warning("this node's record was deleted or overwritten in etcd; registering again")
            self._register()
        return True

    def _check_watch_lag(self, revision: int, sent_at: float) -> None:
        """Requests another watch if this one does not bring a revision that was read: its connection may hang."""
        if self._bundle.revision >= self._awaited_revision:
            self._awaited_revision, self._awaited_since = revision, sent_at
        elif sent_at - self._awaited_since > _MAX_WATCH_LAG_SECONDS:
            _log.warning(
                "the watch has not brought revision %d within %g s of a read that returned it; opening another watch",
                self._awaited_revision,
                _MAX_WATCH_LAG_SECONDS,
            )
            self._awaited_revision, self._awaited_since = revision, sent_at
            self._on_watch_lagging()

    def _acknowledge(self, applied: AppliedBarrier) -> None:
        lease = self._lease
        if lease is None:
            return  # registering again acknowledges every barrier that is still raised
        ack = mesh_pb2.Ack(format=FORMAT, revision=applied.revision, streams_ended=applied.streams_ended)
        proven_at = self._bundle.proven_at
        if proven_at is not None:
            ack.freshness_age.FromNanoseconds(int(max(ticks() - proven_at, 0.0) * 1e9))
        put = Put(self._layout.ack(applied.barrier_id, self._record.node_id), ack.SerializeToString(), lease.id)
        # If the record is gone, so is the lease: this node registers again, which acknowledges the barrier. If the
        # barrier is gone, no acknowledgement is awaited, and one would never be deleted.
        mine = Unchanged(self._layout.node(self._record.node_id), self._registration_revision)
        raised = Unchanged(self._layout.barrier(applied.barrier_id), applied.revision)
        if self._client.commit([mine, raised], [put], timeout=_COMMIT_TIMEOUT_SECONDS) is None:
            self._prove_at = 0.0  # check at once whether the record is still there

    def _deregister(self) -> None:
        if self._lease is not None:
            try:
                self._lease.revoke()
            except EtcdUnavailable:
                _log.info("etcd does not answer; it deletes this node's record when the lease runs out")

    def _log_refused_acks(self, error: EtcdRefused) -> None:
        if not self._acks_refused:
            self._acks_refused = True
            _log.warning("etcd refuses this node's acknowledgements; retrying: %s", error)

    def _log_unavailable(self, error: EtcdUnavailable) -> None:
        if not self._unavailable and not self._stopping:
            self._unavailable = True
            _log.warning("etcd does not answer; retrying: %s", error)


def _now() -> Timestamp:
    now = Timestamp()
    now.GetCurrentTime()
    return now
