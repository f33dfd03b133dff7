"""A node's pulse: being registered, acknowledging barriers, and proving freshness.

One thread does all three, so that their order is plain: the node is registered before it reads the mesh for the first
time (a barrier that is raised later must wait for it), and a barrier is acknowledged only after it was applied.
"""

from __future__ import annotations

import logging
import queue
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from credmesh.store.v1 import mesh_pb2
from interceptors.clock import ticks
from interceptors.etcd.client import EtcdClient, EtcdRefused, EtcdUnavailable, LeaseNotFound, Put, Unchanged
from interceptors.etcd.lease import KeptLease
from interceptors.keyspace import Layout
from interceptors.trust.bundle import TrustBundle
from interceptors.trust.continuity import Beacon, Continuity
from interceptors.trust.continuity_monitor import OUT_OF_TOUCH_SECONDS

__all__ = ["AppliedBarrier", "Heartbeat"]

_log: Final = logging.getLogger("credmesh.node")

_PROOF_EVERY: Final = 1.0
_PROOF_TIMEOUT: Final = 2.0
_COMMIT_TIMEOUT: Final = 1.5
"""Seconds. One member of etcd that hangs must not keep this node from proving itself through the others."""
_WATCH_MAY_LAG: Final = 1.5
_FIRST_BACKOFF: Final = 0.1
_LONGEST_BACKOFF: Final = 5.0


@dataclass(frozen=True, slots=True)
class AppliedBarrier:
    """A barrier whose revision is applied here, and how many live streams were ended for that revision."""

    barrier_id: str
    revision: int
    streams_ended: int = 0


class Heartbeat:
    """The thread that keeps a node registered and proves how fresh its bundle is.

    on_registered is called in that thread after the first registration, on_behind when reads have known of something
    for a while that the watch has not brought.
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
        on_behind: Callable[[], None],
    ) -> None:
        self._client = client
        self._layout = layout
        self._bundle = bundle
        self._record = record
        self._lease_ttl = lease_ttl
        self._on_registered: Callable[[], None] | None = on_registered
        self._on_behind = on_behind
        self._awaited = (0, 0.0)  # the revision that the watch has to bring, and when it was read
        self._barriers: queue.SimpleQueue[AppliedBarrier | None] = queue.SimpleQueue()
        self._owed: list[AppliedBarrier] = []  # what etcd has refused; tried again with every proof
        self._thread = threading.Thread(target=self._run, name="credmesh-pulse", daemon=True)
        self._stopping = False
        self._lease: KeptLease | None = None
        self._registered_at = 0  # the revision that made this node's record
        self._renew_at = 0.0
        self._prove_at = 0.0
        self._in_touch_at = 0.0
        self._away = False
        self._refused = False

    @property
    def registered(self) -> bool:
        """Whether etcd holds this node's record, as far as the node can know."""
        lease = self._lease
        return lease is not None and lease.alive(time.monotonic())

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread and takes the node's record away, so that nobody waits for it."""
        self._stopping = True
        self._barriers.put(None)
        if self._thread.ident is not None:
            self._thread.join(timeout=10)

    def wake(self) -> None:
        """Has the thread look at what there is to say."""
        self._barriers.put(None)

    def acknowledge(self, applied: AppliedBarrier) -> None:
        """Has a barrier acknowledged. To be called when its revision is applied, and its streams were ended."""
        self._barriers.put(applied)

    def _run(self) -> None:
        backoff = _FIRST_BACKOFF
        while not self._stopping:
            try:
                self._beat()
                backoff = _FIRST_BACKOFF
            except LeaseNotFound:
                _log.warning("this node's lease is gone; it registers anew")
                self._lease = None
            except EtcdUnavailable as error:
                self._say_away(error)
                self._wait(backoff * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, not a secret
                # Who got no answer has tried for a whole timeout already; who was refused comes back at once.
                backoff = min(backoff * 2, _LONGEST_BACKOFF if isinstance(error, EtcdRefused) else _FIRST_BACKOFF)
            except Exception:  # noqa: BLE001 - logged; the thread must live
                # Freshness grows old and the lease runs out meanwhile, which is what a broken node should look like.
                _log.exception("the node's pulse failed; it goes on in %.0f s", _LONGEST_BACKOFF)
                self._wait(_LONGEST_BACKOFF)
        self._deregister()

    def _beat(self) -> None:
        """One round: whatever is due now, then a wait for the next thing or a barrier."""
        if self._lease is None:
            self._register()
        now = time.monotonic()
        if now >= self._renew_at:
            self._renew(now)
        if self._record.broken_history != self._bundle.continuity.broken_history:
            self._announce()
        if now >= self._prove_at:
            self._prove_at = now + _PROOF_EVERY if self._prove() else now
            for applied in self._owed:
                self._barriers.put(applied)
            self._owed.clear()
        barrier = self._next_barrier(min(self._renew_at, self._prove_at) - time.monotonic())
        if barrier is not None:
            try:
                self._acknowledge(barrier)
                self._refused = False
            except EtcdUnavailable as error:
                if not isinstance(error, EtcdRefused) or isinstance(error, LeaseNotFound):
                    self._barriers.put(barrier)
                    raise
                # A full etcd takes no acknowledgement, and may not for hours. Reads go on proving this node meanwhile.
                self._owed.append(barrier)
                self._say_refused(error)
        if self._away:
            self._away = False
            _log.info("etcd answers again")

    def _next_barrier(self, timeout: float) -> AppliedBarrier | None:
        try:
            return self._barriers.get(timeout=max(timeout, 0.0))
        except queue.Empty:
            return None

    def _wait(self, seconds: float) -> None:
        """Waits, but not longer than until the node is stopped. Barriers stay queued."""
        held: list[AppliedBarrier] = []
        end = time.monotonic() + seconds
        while not self._stopping and time.monotonic() < end:
            barrier = self._next_barrier(end - time.monotonic())
            if barrier is not None:
                held.append(barrier)
        for barrier in held:
            self._barriers.put(barrier)

    def _register(self) -> None:
        self._lease = KeptLease(self._client, self._lease_ttl)
        self._renew_at = time.monotonic() + self._lease_ttl / 3
        self._record.registered_at.CopyFrom(_now())
        try:
            self._announce()
        except BaseException:
            self._lease = None
            raise
        if self._on_registered is not None:
            self._on_registered()
            self._on_registered = None
            return
        # With the lease went the acknowledgements that lay under it. Barriers that are not applied yet come by the
        # watch.
        monitor = self._bundle.continuity
        since = monitor.observed
        try:
            found = self._client.read_prefix(self._layout.barriers)
        except BaseException:
            # What it owes would never be known, and a rotation would wait for it as long as it lives.
            self._lease = None
            raise
        if monitor.lost or found.revision < since.revision:
            return  # what is applied here is of another history
        for key, entry in found.values.items():
            if entry.mod_revision <= self._bundle.revision:
                self.acknowledge(AppliedBarrier(key.removeprefix(self._layout.barriers), entry.mod_revision))

    def _announce(self) -> None:
        """Writes this node's record. Whoever vouches for etcd's history does so anew then."""
        assert self._lease is not None  # noqa: S101 - whoever calls this is registered, or just registers
        monitor = self._bundle.continuity
        self._record.broken_history = monitor.broken_history
        put = Put(self._layout.node(self._record.node_id), self._record.SerializeToString(), self._lease.id)
        asked_at = ticks()
        revision = self._client.commit([], [put], timeout=_COMMIT_TIMEOUT)
        if revision is None:
            raise EtcdUnavailable("the node's record could not be written")
        monitor.require_vouch_after(revision)
        self._registered_at = revision
        self._in_touch_at = asked_at

    def _renew(self, now: float) -> None:
        if self._lease is not None and self._lease.renew():
            self._renew_at = now + self._lease_ttl / 3
            return
        _log.warning("this node's lease has run out, it was silent too long; it registers anew")
        self._lease = None  # so that a failure now is not taken for a registration
        self._register()

    def _prove(self) -> bool:
        """Reads linearizably what tells how fresh this node is, and whether some of etcd's history is missing.

        False if the answer took so long that it proves nothing.
        """
        monitor = self._bundle.continuity
        if ticks() - self._in_touch_at > OUT_OF_TOUCH_SECONDS:
            # What was committed meanwhile may be lost already, without a trace that this node could find.
            self._announce()
        record_key = self._layout.node(self._record.node_id)
        since, history_generation, unseen_epoch = (
            monitor.observed,
            monitor.history_generation,
            monitor.highest_unseen_epoch(),
        )
        sent_at = ticks()
        found = self._client.read(self._layout.beacon, self._layout.history, record_key, timeout=_PROOF_TIMEOUT)
        continuity = self._bundle.record_read(found, since)
        if ticks() - self._in_touch_at > OUT_OF_TOUCH_SECONDS:
            # It counts when etcd was heard of, and not when it was asked: it may have been restored before it answered.
            return False
        if continuity is Continuity.UNBROKEN:
            monitor.resolve_unseen_epoch(unseen_epoch, found.revision)
            entry = found.values.get(self._layout.beacon)
            beacon = Beacon(0) if entry is None else Beacon(entry.mod_revision, entry.value)
            self._bundle.prove(beacon, sent_at, history_generation)
            self._look_after_watch(beacon.revision, sent_at)
        elif continuity is Continuity.ANOTHER:
            # The watch would have brought that, if it were of the same etcd: it may hang at one that was left behind.
            self._on_behind()
        self._in_touch_at = sent_at
        record = found.values.get(record_key)
        if record is None or record.mod_revision != self._registered_at:
            _log.warning("this node's record is not in etcd as it was written; it registers anew")
            self._register()
        return True

    def _look_after_watch(self, revision: int, sent_at: float) -> None:
        """Has the watch taken up anew if it does not bring what was read: it may hang on a connection that is dead."""
        awaited, since = self._awaited
        if self._bundle.revision >= awaited:
            self._awaited = revision, sent_at
        elif sent_at - since > _WATCH_MAY_LAG:
            _log.warning(
                "the watch has not brought revision %d, which was read a while ago; taking up another", awaited
            )
            self._awaited = revision, sent_at
            self._on_behind()

    def _acknowledge(self, applied: AppliedBarrier) -> None:
        lease = self._lease
        if lease is None:
            return  # registering anew acknowledges what is still raised
        ack = mesh_pb2.Ack(format=1, revision=applied.revision, streams_ended=applied.streams_ended)
        proven_at = self._bundle.proven_at
        if proven_at is not None:
            ack.freshness_age.FromNanoseconds(int(max(ticks() - proven_at, 0.0) * 1e9))
        put = Put(self._layout.ack(applied.barrier_id, self._record.node_id), ack.SerializeToString(), lease.id)
        # Without the record there is no lease to put this under; registering anew acknowledges it. Without the barrier
        # nobody waits any more, and nobody would take the acknowledgement away.
        mine = Unchanged(self._layout.node(self._record.node_id), self._registered_at)
        raised = Unchanged(self._layout.barrier(applied.barrier_id), applied.revision)
        if self._client.commit([mine, raised], [put], timeout=_COMMIT_TIMEOUT) is None:
            self._prove_at = 0.0

    def _deregister(self) -> None:
        if self._lease is not None:
            try:
                self._lease.revoke()
            except EtcdUnavailable:
                _log.info("etcd does not answer; this node's record goes when its lease runs out")

    def _say_refused(self, error: EtcdRefused) -> None:
        if not self._refused:
            self._refused = True
            _log.warning("etcd refuses this node's acknowledgements, trying on: %s", error)

    def _say_away(self, error: EtcdUnavailable) -> None:
        if not self._away and not self._stopping:
            self._away = True
            _log.warning("etcd does not answer, trying on: %s", error)


def _now() -> Timestamp:
    now = Timestamp()
    now.GetCurrentTime()
    return now
