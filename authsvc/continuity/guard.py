"""The guard of etcd's history: begins it, finds the loss of a part of it, and recovers from a loss.

An etcd that was restored from a backup lacks revocations, and uses revisions a second time. Neither can be repaired. So
the recovery ends everything that was issued before: one commit removes all signing keys and sessions, revokes everyone
and begins another history. Nodes that see another history read the mesh again and drop every credential that they have
accepted. Users sign in again, with the accounts that the backup has.

Every replica checks the history and recovers by itself. It compares etcd with its watermark and with what its own node
has observed. Even if etcd's revision has grown further since, the newest beacon that either of them holds must
still be in etcd, at its revision and with its value. A replica that gives out a receipt first writes the receipt's
commit into the watermark.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from authsvc.audit import audit
from authsvc.continuity.history_record import CurrentHistory, Loss, make_history_record, read_current_history
from authsvc.continuity.recovery import recover_from_loss
from authsvc.continuity.vouching import HistoryVoucher
from authsvc.continuity.watermark import Watermark
from authsvc.coordination.acknowledgements import AckTracker
from authsvc.revocation.revoker import Revoker
from credmesh.store.v1 import mesh_pb2
from interceptors.clock import ticks
from interceptors.etcd.client import (
    Compacted,
    EtcdClient,
    EtcdUnavailable,
    KeyValue,
    Put,
    RevisionNotReached,
    Snapshot,
    Unchanged,
)
from interceptors.keyspace import Layout, beacon_update
from interceptors.stored_records import RecordError, parse_record
from interceptors.trust.continuity import (
    NOTHING_OBSERVED,
    Beacon,
    Continuity,
    Observation,
    assess_continuity,
    merge_observations,
)
from interceptors.trust.continuity_monitor import MAX_SILENCE_SECONDS, ContinuityMonitor

__all__ = ["ContinuityGuard"]

_log: Final = logging.getLogger("credmesh.auth.history")

_CHECK_INTERVAL_SECONDS: Final = 1.0
_POLL_INTERVAL_SECONDS: Final = 0.25


class ContinuityGuard:
    """Guards the history. One per replica.

    monitor      what the replica's own node has observed of etcd
    ack_tracker  follows the registrations, in which other nodes report a loss
    watermark    what this replica has observed, in this run and in earlier ones
    clock        seconds since 1970, for people to read
    vouch_job    the leader's job: vouches for the history (see authsvc.continuity.vouching)
    """

    def __init__(
        self,
        *,
        etcd: EtcdClient,
        layout: Layout,
        node_id: str,
        monitor: ContinuityMonitor,
        ack_tracker: AckTracker,
        revoker: Revoker,
        watermark: Watermark,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._etcd = etcd
        self._layout = layout
        self._node_id = node_id
        self._monitor = monitor
        self._ack_tracker = ack_tracker
        self._revoker = revoker
        self._watermark = watermark
        self._clock = clock
        self._voucher = HistoryVoucher(
            etcd=etcd, layout=layout, ack_tracker=ack_tracker, check=self.check_and_recover, clock=clock
        )
        self.vouch_job: Final = self._voucher.job
        self._check_lock = threading.Lock()  # the guard's thread and the leader's job both check
        self._wake = threading.Event()
        self._stopping = False
        self._etcd_unavailable = False
        self._reported_compaction = 0
        self._thread = threading.Thread(target=self._run, name="credmesh-history", daemon=True)

    def start(self) -> None:
        """Checks the history once, and starts a thread that goes on checking. Does not wait for etcd."""
        self._monitor.loss_listeners.append(self._wake.set)
        self._run_check()
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread."""
        self._stopping = True
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(timeout=10)

    def remember_commit(self, beacon: Beacon, sent_at: float) -> None:
        """Writes a commit into the watermark, so that its loss would be found. Returns when it is on disk.

        beacon   the beacon that the commit has put
        sent_at  when the commit was sent, by interceptors.clock

        If the commit was sent more than MAX_SILENCE_SECONDS ago, for example because the process was paused, etcd may
        have been restored without it, and a replica that did not know of it may have vouched for the restored etcd.
        Only in that case is etcd read again. Raises EtcdUnavailable if the commit is missing or etcd cannot tell.
        """
        # Read before the histories are compared. A commit that another thread records from here on belongs to the
        # newer history, and `begin_history` must not discard it.
        commits_recorded = self._watermark.commits_recorded
        remembered, seen = self._watermark.observed.history, self._monitor.history
        if seen is not None and (remembered is None or remembered.history_id in seen.ancestors):
            # The node's watch has learned of another history before the guard's next check. The commit belongs to that
            # history.
            self._watermark.begin_history(Observation(seen.cluster_id, history=seen), commits_recorded)
        self._watermark.record_commit(beacon)
        if ticks() - sent_at > MAX_SILENCE_SECONDS and self._read_beacon_at(beacon.revision) != beacon:
            raise EtcdUnavailable(
                f"etcd has lost the revocation of revision {beacon.revision}, or cannot tell: revoke once more"
            )

    def check_and_recover(self, nodes: Snapshot | None = None) -> CurrentHistory | None:
        """Compares etcd with what is known of its history, and acts on the result. Raises EtcdUnavailable.

        Returns the history if nothing is missing. Otherwise returns None, after one of these:

        - begins the first history of a new mesh;
        - replaces the watermark, if another replica has recovered from a loss;
        - recovers from a loss: removes every signing key and ends every session.

        nodes: the registrations, if the caller has just read them; by default those that the ack tracker has.
        """
        with self._check_lock:
            commits_recorded = self._watermark.commits_recorded
            remembered, seen = self._watermark.observed, self._monitor.observed
            known = merge_observations(remembered, seen)
            current = read_current_history(self._etcd, self._layout)
            continuity, reason = self._assess_continuity([remembered, seen], known, current.observed)
            if current.history is None and known.history is None:
                self._begin_first_history(current)
                return None
            if continuity is Continuity.NEW_HISTORY:
                _log.warning("%s", reason)
                self._watermark.begin_history(current.observed, commits_recorded)
                return None
            noticed_by = self._node_id
            if continuity is Continuity.UNBROKEN and current.history is not None:  # the second half is for mypy
                report = self._find_loss_report(current.history.history_id, nodes)
                if report is None:
                    if _may_be_same_history(remembered, current.observed):
                        self._watermark.advance(current.observed)
                    else:
                        # The node has seen another replica's recovery, and the watermark has not.
                        self._watermark.begin_history(current.observed, commits_recorded)
                    return current
                reason, noticed_by = report
            # The node may have seen more meanwhile.
            highest_revision = max(known.revision, self._monitor.observed.revision)
            loss = Loss(reason, noticed_by, highest_revision)
            begun = recover_from_loss(self._revoker, self._layout, current, known, loss, self._clock())
            if begun is not None:
                self._watermark.begin_history(replace(NOTHING_OBSERVED, history=begun), commits_recorded)
            return None

    def _run(self) -> None:
        checked_at = time.monotonic()
        while not self._stopping:
            woken = self._wake.wait(_POLL_INTERVAL_SECONDS)
            self._wake.clear()
            if self._stopping:
                return
            # Only a check lets what the node has observed into the watermark: the node may follow an etcd that lacks
            # what the watermark knows.
            behind = self._monitor.observed.beacon_revision > self._watermark.observed.beacon_revision
            if woken or behind or time.monotonic() >= checked_at + _CHECK_INTERVAL_SECONDS:
                checked_at = time.monotonic()
                self._run_check()

    def _run_check(self) -> None:
        """Checks the history, and vouches for it if no leader does. Logs failures."""
        try:
            current = self.check_and_recover()
            self._etcd_unavailable = False
            if current is not None:
                self._voucher.vouch_if_overdue(current)
        except EtcdUnavailable as error:
            if not self._etcd_unavailable:
                self._etcd_unavailable = True
                _log.warning("cannot check etcd's history, trying again: %s", error)
        except Exception:  # noqa: BLE001 -- it is logged, and the history must be checked again
            _log.exception("the check of etcd's history failed unexpectedly; trying again")

    def _assess_continuity(
        self, observations: Sequence[Observation], known: Observation, now: Observation
    ) -> tuple[Continuity, str]:
        """Compares etcd with each observation, and reads from etcd what its beacon was then. Returns the first break.

        Each is compared separately: etcd may have what the one has observed, and lack what the other has.

        known: both observations, merged
        now    what etcd has now
        """
        for observation in observations:
            if not _may_be_same_history(observation, known):
                continue  # older: its history is an ancestor of the other's
            continuity, reason = assess_continuity(observation, now)
            if continuity is Continuity.UNBROKEN and 0 < observation.beacon_revision < now.beacon_revision:
                beacon_then = self._read_beacon_at(observation.beacon_revision)
                continuity, reason = assess_continuity(observation, now, beacon_then)
            if continuity is not Continuity.UNBROKEN:
                return continuity, reason
        return Continuity.UNBROKEN, ""

    def _read_beacon_at(self, revision: int) -> Beacon | None:
        """Reads the beacon as of a revision; None if that revision is compacted.

        Raises EtcdUnavailable if etcd has not reached the revision.
        """
        try:
            entry = self._etcd.read_at(self._layout.beacon, revision).values.get(self._layout.beacon)
        except RevisionNotReached as error:
            raise EtcdUnavailable(f"etcd went back to an earlier revision during the check: {error}") from error
        except Compacted:
            if self._reported_compaction != revision:
                self._reported_compaction = revision
                _log.warning(
                    "revision %d, the newest that this replica has observed, is compacted, so its beacon cannot be "
                    "compared: this replica would not find a loss in a restored etcd that has grown beyond it",
                    revision,
                )
            return None
        return Beacon(0) if entry is None else Beacon(entry.mod_revision, entry.value)

    def _find_loss_report(self, history_id: str, nodes: Snapshot | None) -> tuple[str, str] | None:
        """Finds a node that reports a loss in this history. Returns the reason and the node's id."""
        if self._monitor.broken_history == history_id:
            return self._monitor.loss, self._node_id
        if nodes is None:
            records = {node_id: node.record for node_id, node in self._ack_tracker.registered_nodes.items()}
        else:
            records = dict(filter(None, (self._parse_node(key, entry) for key, entry in nodes.values.items())))
        for node_id, record in records.items():
            if record.broken_history == history_id:
                return f"node {node_id} has seen more of it than is there", node_id
        return None

    def _parse_node(self, key: str, entry: KeyValue) -> tuple[str, mesh_pb2.NodeRecord] | None:
        try:
            return self._layout.name(key, self._layout.nodes), parse_record(mesh_pb2.NodeRecord, entry.value)
        except RecordError:
            return None  # the ack tracker logs it

    def _begin_first_history(self, current: CurrentHistory) -> None:
        """Begins the first history, in a mesh that is new, or from before there were histories."""
        record = make_history_record(current.observed.cluster_id, [], self._clock())
        operations = [Put(self._layout.history, record.SerializeToString()), beacon_update(self._layout)]
        revision = self._etcd.commit([Unchanged(self._layout.history, 0)], operations)
        if revision is not None:
            audit("history.begin", history_id=record.history_id, revision=revision)


def _may_be_same_history(one: Observation, other: Observation) -> bool:
    """Whether two observations may be of one history. False only if both name a history, and not the same one."""
    if one.history is None or other.history is None:
        return True
    return one.history.history_id == other.history.history_id
