"""The trust bundle: what a node verifies with, as of one etcd revision.

It is fed by one thread (the mirror of mesh/) and read by every call. Readers follow one rule, and need no lock: read
`generation` first, then keys and epochs. The writer changes keys and epochs first and moves `generation` on after, so a
reader that saw an old state also saw an old generation, and will look again.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from interceptors.clock import ticks
from interceptors.etcd.client import Snapshot
from interceptors.etcd.mirror import Event, ReadAnew
from interceptors.keyspace import Layout
from interceptors.tokens.access_token import TokenReader
from interceptors.tokens.verification_key import RecordError, VerificationKey, read_key
from interceptors.trust.continuity import Beacon, Continuity, History, Observation, read_history
from interceptors.trust.continuity_monitor import OUT_OF_TOUCH_SECONDS, ContinuityMonitor
from interceptors.trust.epochs import Epochs

__all__ = ["Changes", "TrustBundle"]

_log: Final = logging.getLogger("credmesh.bundle")

_BEACONS_KEPT: Final = 256
"""So many commits may the watch be ahead of a read's answer; beyond that the read proves nothing."""

_MOST_UNPROVEN: Final = 8
"""Proofs that wait for their revisions. They are made once a second, and count for OUT_OF_TOUCH_SECONDS seconds."""


@dataclass(slots=True)
class Changes:
    """What a batch of events means for the node.

    revoked   scopes that were revoked, with their new epochs
    barriers  barriers that were raised, by id, with their revisions
    keys      the revisions at which the set of keys changed
    another   whether all of it is of another history, in which nothing counts that was accepted before
    """

    revoked: list[tuple[str, int]] = field(default_factory=list)
    barriers: list[tuple[str, int]] = field(default_factory=list)
    keys: list[int] = field(default_factory=list)
    another: bool = False


class TrustBundle:
    """Verification keys and epochs.

    revision    everything committed below mesh/ up to this etcd revision is in here; 0 before the first read
    generation  moves on with every change that a verified credential may not survive
    proven_at   by interceptors.clock: everything committed before this moment is in here; None before the first proof
    proven      is set from the first proof on
    monitor        what was seen of etcd; while something of it is missing, nothing of etcd is taken in

    clock       what `prove` is told the time by
    """

    def __init__(self, layout: Layout, issuer: str, *, clock: Callable[[], float] = ticks) -> None:
        self.continuity = ContinuityMonitor()
        self._clock = clock
        self._layout = layout
        self._issuer = issuer
        self._lock = threading.Lock()  # among writers: the mirror, a key that was asked for, a freshness proof
        self._unproven: deque[tuple[Beacon, float]] = deque(maxlen=_MOST_UNPROVEN)
        self._beacons: dict[int, bytes] = {}  # what the beacon held, in every revision from the first one here on
        self.keys: Mapping[str, VerificationKey] = {}
        self.epochs = Epochs()
        self.reader = TokenReader(issuer, self.keys)
        self.revision = 0
        self.generation = 0
        self.proven_at: float | None = None
        self.proven = threading.Event()

    def load(self, snapshot: Snapshot, since: Observation | None = None) -> Changes:
        """Replaces everything by a snapshot of mesh/, unless something is missing in it that was seen before.

        since: what was seen when the snapshot was about to be read (`monitor.observed`); by default what is seen now.
        """
        history_generation = self.continuity.history_generation
        continuity = self.record_read(snapshot, self.continuity.observed if since is None else since)
        if continuity is Continuity.LOST:
            return Changes()
        changes = self._take(snapshot, unbroken=continuity is Continuity.UNBROKEN)
        if continuity is Continuity.ANOTHER:
            self.continuity.begin_history(self._observation(snapshot))
            changes.another = self.continuity.history_generation != history_generation
        with self._lock:
            # After the monitor is in its new history_generation: a reader that sees this generation sees that too.
            self._advance(snapshot.revision)
        return changes

    def record_read(self, found: Snapshot, since: Observation) -> Continuity:
        """What to make of something that was read linearizably, with the beacon and the history among it.

        since: what was seen when it was about to be read (`monitor.observed`).
        """
        return self.continuity.record_read(since, self._observation(found))

    def _take(self, snapshot: Snapshot, *, unbroken: bool) -> Changes:
        keys: dict[str, VerificationKey] = {}
        epochs: list[tuple[str, int]] = []
        changes = Changes(keys=[snapshot.revision])
        for key, entry in snapshot.values.items():
            if key.startswith(self._layout.epochs):
                # The key and its revision say it all: an epoch whose value is newer than this code still revokes.
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
            # Proofs rest on an unbroken history.
            if not unbroken:
                self.proven_at = None
                self._unproven.clear()
        return changes

    def apply(self, events: Sequence[Event], revision: int) -> Changes:
        """Applies events in the order of their commits; afterwards the bundle is as of `revision`.

        ReadAnew if they begin another history. While something is missing of this one, nothing is applied.
        """
        self._follow_history(events)
        changes = Changes()
        if self.continuity.lost:
            return changes
        keys: dict[str, VerificationKey] | None = None
        with self._lock:
            for event in events:
                if event.key.startswith(self._layout.epochs):
                    self._apply_epoch(event, changes)
                elif event.key.startswith(self._layout.keys):
                    keys = dict(self.keys) if keys is None else keys
                    self._apply_key(event, keys)
                    changes.keys.append(event.mod_revision)
                elif event.key.startswith(self._layout.barriers) and event.value is not None:
                    changes.barriers.append((event.key.removeprefix(self._layout.barriers), event.mod_revision))
                elif event.key == self._layout.beacon:
                    self.continuity.record_watched(revision, beacon=Beacon(event.mod_revision, event.value))
                    self._keep_beacon(event)
            if keys is not None:
                self._set_keys(keys)
            self._advance(revision, changed=bool(changes.keys or changes.revoked))
        return changes

    def add_key(self, key: VerificationKey, revision: int) -> None:
        """Adds a key that was read from etcd at `revision` because the watch had not brought it yet."""
        with self._lock:
            # If the watch is already past that read, it knows better: the key may have been removed since.
            if revision > self.revision and key.kid not in self.keys:
                self._set_keys({**self.keys, key.kid: key})
                self.generation += 1

    def prove(self, beacon: Beacon, sent_at: float, history_generation: int | None = None) -> None:
        """A linearizable read that was sent at `sent_at` found nothing newer below mesh/ than what put this beacon.

        history_generation: that of the monitor when it was sent; a proof of another history_generation counts for
        nothing.

        Once that revision is applied, all that was committed before the read was sent is in here: a measured bound on
        this node's staleness that no clock takes part in but its own, which nobody sets (interceptors.clock).
        """
        with self._lock:
            if history_generation is None or history_generation == self.continuity.history_generation:
                self._unproven.append((beacon, sent_at))
                self._settle_proofs()

    def _advance(self, revision: int, *, changed: bool = True) -> None:
        self.revision = revision
        self.continuity.record_watched(revision)
        if changed:
            self.generation += 1
        self._settle_proofs()

    def _settle_proofs(self) -> None:
        """Counts the proofs whose revision is applied, while nothing is known to be missing.

        But none that had to wait long for that: etcd may have been restored meanwhile, and the revision that was read
        is another one than that which was applied. The time is read under the lock, while what is applied cannot
        change. And none unless the watch has brought the very beacon that was read: it may follow an etcd that the
        reads do not come from.
        """
        while self._unproven and self.revision >= self._unproven[0][0].revision and self.continuity.vouched:
            beacon, sent_at = self._unproven.popleft()
            if self._clock() - sent_at <= OUT_OF_TOUCH_SECONDS and self._has_brought(beacon):
                self.proven_at = sent_at
                self.proven.set()

    def _has_brought(self, beacon: Beacon) -> bool:
        if beacon.value is None or self._beacons.get(beacon.revision) == beacon.value:
            return True
        if beacon.revision >= min(self._beacons, default=0):
            self.continuity.report_loss(
                f"the beacon of revision {beacon.revision} is not the one that the watch has brought"
            )
        return False  # or it is so old that nobody knows any more; the next read is newer

    def _keep_beacon(self, event: Event) -> None:
        if event.value is not None:
            self._beacons[event.mod_revision] = event.value
        if len(self._beacons) > _BEACONS_KEPT:
            del self._beacons[next(iter(self._beacons))]

    def _observation(self, snapshot: Snapshot) -> Observation:
        beacon = snapshot.values.get(self._layout.beacon)
        entry = snapshot.values.get(self._layout.history)
        history = None if entry is None else self._read_history(entry.value, entry.mod_revision)
        moved_at, value = (0, None) if beacon is None else (beacon.mod_revision, beacon.value)
        return Observation(snapshot.cluster_id, snapshot.revision, moved_at, history, value)

    def _follow_history(self, events: Sequence[Event]) -> None:
        for event in events:
            if event.key != self._layout.history:
                continue
            known = self.continuity.history
            if event.value is None:
                self.continuity.report_loss("the record of its history was deleted")
                continue
            history = self._read_history(event.value, event.mod_revision)
            if self.continuity.lost and history is not None and history.history_id != self.continuity.broken_history:
                raise ReadAnew
            if known is not None and history is not None and history.history_id != known.history_id:
                raise ReadAnew
            if not self.continuity.lost:
                self.continuity.record_watched(event.mod_revision, history=history)

    def _read_history(self, value: bytes, revision: int) -> History | None:
        try:
            return read_history(value, revision)
        except RecordError as error:
            # Not "there is none": a newer version of the auth service may have written it.
            _log.error("left alone %s: %s", self._layout.history, error)
            return self.continuity.history

    def _set_keys(self, keys: Mapping[str, VerificationKey]) -> None:
        self.keys = keys
        self.reader = TokenReader(self._issuer, keys)

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
            # Deleted, or replaced by something that cannot be read: in doubt the key is not held.
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
