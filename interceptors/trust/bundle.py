"""The trust bundle: what a node verifies with, as of one etcd revision.

The mirror of mesh/ writes it in one thread, and every call reads it without a lock. Readers must read `version` before
keys and epochs. The writer changes keys and epochs before it increases `version`. So a reader that saw old keys or
epochs also saw an old version, and checks again.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from interceptors.clock import ticks
from interceptors.etcd.client import Snapshot
from interceptors.etcd.mirror import Event, RereadRequired
from interceptors.keyspace import Layout
from interceptors.stored_records import RecordError
from interceptors.tokens.access_token import TokenReader
from interceptors.tokens.verification_key import VerificationKey, read_key
from interceptors.trust.continuity import Beacon, Continuity, History, Observation, read_history
from interceptors.trust.continuity_monitor import MAX_SILENCE_SECONDS, ContinuityMonitor
from interceptors.trust.epochs import Epochs

__all__ = ["Changes", "TrustBundle"]

_log: Final = logging.getLogger("credmesh.bundle")

_MAX_REMEMBERED_BEACONS: Final = 256
"""How many commits the watch may be ahead of a read's answer. A read that is older than that proves nothing."""

_MAX_PENDING_PROOFS: Final = 8
"""Proofs that wait for the watch. A node makes one each second, and it stays valid for MAX_SILENCE_SECONDS."""


@dataclass(slots=True)
class Changes:
    """What a snapshot or a batch of events changed.

    revoked        revoked scopes, with their new epochs
    barriers       raised barriers by id, with their revisions
    key_revisions  the revisions at which the set of keys changed
    new_history    whether the bundle is now of another history, in which nothing counts that was verified before
    """

    revoked: list[tuple[str, int]] = field(default_factory=list)
    barriers: list[tuple[str, int]] = field(default_factory=list)
    key_revisions: list[int] = field(default_factory=list)
    new_history: bool = False


class _PendingProof(NamedTuple):
    """A proof that waits until its beacon's revision is applied. sent_at: when its read was sent."""

    beacon: Beacon
    sent_at: float


class TrustBundle:
    """Verification keys and epochs as of one revision, and the proof of how fresh they are.

    keys          the verification keys, by kid
    epochs        the epochs, by revocation scope
    revision      everything committed below mesh/ up to this revision is in the bundle; 0 before the first read
    version       increases with every change after which a verified credential has to be checked again
    proven_at     a moment of interceptors.clock: everything committed before it is in the bundle; None before the first
                  proof
    proven        is set by the first proof
    token_reader  reads tokens with the present keys
    monitor       what was observed of etcd's history. While a loss is known, no event is applied
    """

    def __init__(self, layout: Layout, issuer: str, *, clock: Callable[[], float] = ticks) -> None:
        self.monitor = ContinuityMonitor()
        self._clock = clock  # for proofs
        self._layout = layout
        self._issuer = issuer
        self._lock = threading.Lock()  # between writers: the mirror, key lookups and proofs of freshness
        self._pending_proofs: deque[_PendingProof] = deque(maxlen=_MAX_PENDING_PROOFS)
        self._beacons: dict[int, bytes] = {}  # the beacon's values by revision, of the commits that are remembered
        self.keys: Mapping[str, VerificationKey] = {}
        self.epochs = Epochs()
        self.token_reader = TokenReader(issuer, self.keys)
        self.revision = 0
        self.version = 0
        self.proven_at: float | None = None
        self.proven = threading.Event()

    def load(self, snapshot: Snapshot, since: Observation | None = None) -> Changes:
        """Replaces the bundle by a snapshot of mesh/, unless the snapshot lacks something that was observed before.

        since: `monitor.observed` as it was before the snapshot was read; by default as it is now.
        """
        history_generation = self.monitor.history_generation
        continuity = self.record_read(self.monitor.observed if since is None else since, snapshot)
        if continuity is Continuity.LOST:
            return Changes()
        changes = self._replace(snapshot, unbroken=continuity is Continuity.UNBROKEN)
        if continuity is Continuity.NEW_HISTORY:
            self.monitor.begin_history(self._observation(snapshot))
            changes.new_history = self.monitor.history_generation != history_generation
        with self._lock:
            # After history_generation has increased: a reader that sees the new version sees the new history as well.
            self._advance(snapshot.revision)
        return changes

    def record_read(self, since: Observation, snapshot: Snapshot) -> Continuity:
        """Records a linearizable read that includes the beacon and the history, and returns what it shows.

        since: `monitor.observed` as it was before the read was sent.
        """
        return self.monitor.record_read(since, self._observation(snapshot))

    def _replace(self, snapshot: Snapshot, *, unbroken: bool) -> Changes:
        keys: dict[str, VerificationKey] = {}
        epochs: list[tuple[str, int]] = []
        changes = Changes(key_revisions=[snapshot.revision])
        for key, entry in snapshot.values.items():
            if key.startswith(self._layout.epochs):
                # The value is not read: an epoch is its key and that key's revision.
                epochs.append((key.removeprefix(self._layout.epochs), entry.mod_revision))
            elif key.startswith(self._layout.keys):
                read = self._read_key(key, entry.value)
                if read is not None:
                    keys[read.kid] = read
            elif key.startswith(self._layout.barriers):
                changes.barriers.append((key.removeprefix(self._layout.barriers), entry.mod_revision))
        with self._lock:
            self.epochs = Epochs(epochs)
            self._set_keys(keys)
            beacon = snapshot.values.get(self._layout.beacon)
            self._beacons = {} if beacon is None else {beacon.mod_revision: beacon.value}
            if not unbroken:  # the proofs were made in another history
                self.proven_at = None
                self._pending_proofs.clear()
        return changes

    def apply(self, events: Sequence[Event], revision: int) -> Changes:
        """Applies events in the order of their commits. Afterwards the bundle is as of `revision`.

        Raises RereadRequired if the events begin another history. While a loss is known, this applies nothing.
        """
        self._follow_history(events)
        changes = Changes()
        if self.monitor.loss:
            return changes
        keys: dict[str, VerificationKey] | None = None
        with self._lock:
            for event in events:
                if event.key.startswith(self._layout.epochs):
                    self._apply_epoch(event, changes)
                elif event.key.startswith(self._layout.keys):
                    keys = dict(self.keys) if keys is None else keys
                    self._apply_key(event, keys)
                    changes.key_revisions.append(event.mod_revision)
                elif event.key.startswith(self._layout.barriers) and event.value is not None:
                    changes.barriers.append((event.key.removeprefix(self._layout.barriers), event.mod_revision))
                elif event.key == self._layout.beacon:
                    self.monitor.record_watched(revision, beacon=Beacon(event.mod_revision, event.value))
                    self._remember_beacon(event)
            if keys is not None:
                self._set_keys(keys)
            self._advance(revision, changed=bool(changes.key_revisions or changes.revoked))
        return changes

    def add_key(self, key: VerificationKey, revision: int) -> None:
        """Adds a key that a lookup read from etcd at `revision`, before the watch has brought it."""
        with self._lock:
            # Once the watch is past that revision, the bundle is newer than the read: the key may have been removed.
            if revision > self.revision and key.kid not in self.keys:
                self._set_keys({**self.keys, key.kid: key})
                self.version += 1

    def add_proof(self, beacon: Beacon, sent_at: float, history_generation: int | None = None) -> None:
        """Adds a proof of freshness: a linearizable read, sent at `sent_at`, that returned this beacon.

        Every commit below mesh/ puts the beacon. So once the beacon's revision is applied, everything committed before
        `sent_at` is in the bundle. So this node's freshness depends on no clock but its own (interceptors.clock).

        history_generation: that of `monitor` when the read was sent. The proof of another one is dropped.
        """
        with self._lock:
            if history_generation is None or history_generation == self.monitor.history_generation:
                self._pending_proofs.append(_PendingProof(beacon, sent_at))
                self._accept_proofs()

    def _advance(self, revision: int, *, changed: bool = True) -> None:
        self.revision = revision
        self.monitor.record_watched(revision)
        if changed:
            self.version += 1
        self._accept_proofs()

    def _accept_proofs(self) -> None:
        """Accepts the pending proofs whose revision is applied, while the history is vouched for.

        A proof that waited longer than MAX_SILENCE_SECONDS is dropped: etcd may have been restored meanwhile, so that
        its revision and the applied one belong to different histories. The clock is read under the lock, where no event
        can be applied in between. A proof is also dropped unless the watch has brought the same beacon as the read: the
        watch may be connected to another etcd than the reads.
        """
        while (
            self._pending_proofs and self.revision >= self._pending_proofs[0].beacon.revision and self.monitor.vouched
        ):
            beacon, sent_at = self._pending_proofs.popleft()
            if self._clock() - sent_at <= MAX_SILENCE_SECONDS and self._confirms_beacon(beacon):
                self.proven_at = sent_at
                self.proven.set()

    def _confirms_beacon(self, beacon: Beacon) -> bool:
        """Returns whether the watch has brought this beacon. Reports a loss if it has brought another one instead."""
        if beacon.value is None:
            return True  # there was no beacon yet
        if self._beacons.get(beacon.revision) == beacon.value:
            return True
        if beacon.revision >= min(self._beacons, default=0):
            self.monitor.report_loss(
                f"the beacon of revision {beacon.revision} is not the one that the watch has brought"
            )
        # Otherwise the beacon is older than those remembered; the next read returns a newer one.
        return False

    def _remember_beacon(self, event: Event) -> None:
        if event.value is not None:
            self._beacons[event.mod_revision] = event.value
        if len(self._beacons) > _MAX_REMEMBERED_BEACONS:
            del self._beacons[next(iter(self._beacons))]

    def _observation(self, snapshot: Snapshot) -> Observation:
        beacon = snapshot.values.get(self._layout.beacon)
        entry = snapshot.values.get(self._layout.history)
        history = None if entry is None else self._read_history(entry.value, entry.mod_revision)
        beacon_revision, value = (0, None) if beacon is None else (beacon.mod_revision, beacon.value)
        return Observation(snapshot.cluster_id, snapshot.revision, beacon_revision, history, value)

    def _follow_history(self, events: Sequence[Event]) -> None:
        for event in events:
            if event.key != self._layout.history:
                continue
            known = self.monitor.history
            if event.value is None:
                self.monitor.report_loss("the record of its history was deleted")
                continue
            history = self._read_history(event.value, event.mod_revision)
            if self.monitor.loss and history is not None and history.history_id != self.monitor.broken_history:
                raise RereadRequired
            if known is not None and history is not None and history.history_id != known.history_id:
                raise RereadRequired
            if not self.monitor.loss:
                self.monitor.record_watched(event.mod_revision, history=history)

    def _read_history(self, value: bytes, revision: int) -> History | None:
        try:
            return read_history(value, revision)
        except RecordError as error:
            # The known history stays: a newer version of the auth service may have written the record.
            _log.error("ignored %s: %s", self._layout.history, error)
            return self.monitor.history

    def _set_keys(self, keys: Mapping[str, VerificationKey]) -> None:
        self.keys = keys
        self.token_reader = TokenReader(self._issuer, keys)

    def _apply_epoch(self, event: Event, changes: Changes) -> None:
        scope = event.key.removeprefix(self._layout.epochs)
        if event.value is None:
            self.epochs.drop(scope)
        else:
            self.epochs.put(scope, event.mod_revision)
            changes.revoked.append((scope, event.mod_revision))

    def _apply_key(self, event: Event, keys: dict[str, VerificationKey]) -> None:
        kid = self._layout.name(event.key, self._layout.keys)
        read = None if event.value is None else self._read_key(event.key, event.value)
        if read is None:
            # The key was deleted or cannot be read. An unreadable key must not verify anything.
            keys.pop(kid, None)
        else:
            keys[kid] = read

    def _read_key(self, key: str, value: bytes) -> VerificationKey | None:
        try:
            read = read_key(value)
            if self._layout.key(read.kid) != key:
                raise RecordError(f"it holds kid {read.kid!r}, which belongs at another etcd key")
        except RecordError as error:
            _log.error("skipped %s: %s", key, error)
            return None
        return read
