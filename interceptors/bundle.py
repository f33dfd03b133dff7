"""The trust bundle: what a node verifies with, as of one etcd revision.

It is fed by one thread (the mirror of mesh/) and read by every call. Readers follow one rule, and need no lock: read
`generation` first, then keys and epochs. The writer changes keys and epochs first and moves `generation` on after, so a
reader that saw an old state also saw an old generation, and will look again.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from interceptors.epochs import Epochs
from interceptors.etcd.client import Snapshot
from interceptors.etcd.layout import Layout
from interceptors.etcd.mirror import Event
from interceptors.keys import RecordError, VerificationKey, read_key
from interceptors.tokens import TokenReader

__all__ = ["Changes", "TrustBundle"]

_log: Final = logging.getLogger("credmesh.bundle")


@dataclass(slots=True)
class Changes:
    """What a batch of events means for the node.

    revoked   scopes that were revoked, with their new epochs
    barriers  barriers that were raised, by id, with their revisions
    keys      the revisions at which the set of keys changed
    """

    revoked: list[tuple[str, int]] = field(default_factory=list)
    barriers: list[tuple[str, int]] = field(default_factory=list)
    keys: list[int] = field(default_factory=list)


class TrustBundle:
    """Verification keys and epochs.

    revision    everything committed below mesh/ up to this etcd revision is in here; 0 before the first read
    generation  moves on with every change that a verified credential may not survive
    proven_at   by interceptors.clock: everything committed before this moment is in here; None before the first proof
    """

    def __init__(self, layout: Layout, issuer: str) -> None:
        self._layout = layout
        self._issuer = issuer
        self._lock = threading.Lock()  # among writers: the mirror, a key that was asked for, a freshness proof
        self._unproven: tuple[int, float] | None = None
        self.keys: Mapping[str, VerificationKey] = {}
        self.epochs = Epochs()
        self.reader = TokenReader(issuer, self.keys)
        self.revision = 0
        self.generation = 0
        self.proven_at: float | None = None

    def load(self, snapshot: Snapshot) -> Changes:
        """Replaces everything by a snapshot of mesh/."""
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
            # Proofs rest on an unbroken history. A snapshot of a restored etcd may be older than what was proven.
            if snapshot.revision < self.revision:
                self.proven_at = None
                self._unproven = None
            self._advance(snapshot.revision)
        return changes

    def apply(self, events: Sequence[Event], revision: int) -> Changes:
        """Applies events in the order of their commits; afterwards the bundle is as of `revision`."""
        changes = Changes()
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

    def prove(self, revision: int, sent_at: float) -> None:
        """A linearizable read that was sent at `sent_at` found nothing newer than `revision` below mesh/.

        Once that revision is applied, all that was committed before the read was sent is in here: a measured bound on
        this node's staleness that no clock takes part in but its own, which nobody sets (interceptors.clock).
        """
        with self._lock:
            if self.revision >= revision:
                self.proven_at = sent_at
            else:
                self._unproven = (revision, sent_at)

    def _advance(self, revision: int, *, changed: bool = True) -> None:
        self.revision = revision
        if changed:
            self.generation += 1
        if self._unproven is not None and revision >= self._unproven[0]:
            self.proven_at = self._unproven[1]
            self._unproven = None

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
