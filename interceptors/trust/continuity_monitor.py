"""What a node has observed of etcd's history, and what follows when a part of it is lost.

A node that finds a loss keeps its trust bundle, since the restored etcd knows fewer revocations. Its proofs of
freshness no longer count, so strict methods refuse. It names the broken history in its registration, and reads
everything again when the auth service has recovered from the loss and begun another history.

A node that has observed nothing yet, or was without etcd for a while, cannot find a loss by itself. Its proofs count
only once the auth service has vouched, after the node registered, that the history is complete.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from interceptors.trust.continuity import (
    NOTHING_OBSERVED,
    Beacon,
    Continuity,
    History,
    Observation,
    assess_continuity,
    merge_observations,
)

__all__ = ["MAX_SILENCE_SECONDS", "ContinuityMonitor"]

_log: Final = logging.getLogger("credmesh.node")

MAX_SILENCE_SECONDS: Final = 2.5
"""After more than this time without an answer, etcd may have been restored.

A restore is assumed to last longer than this, from the last commit that it loses to the first answer after it. So if
etcd has answered within this time, it has not been restored in between.
"""


class ContinuityMonitor:
    """Finds a loss: etcd lacks a part of its history. Thread-safe; attributes may be read without a lock.

    observed            how far this node has seen etcd's history
    loss                what etcd has lost of that, for people; "" while no loss is known
    history_generation  increases with every new history: what was verified in one history does not count in the next
    loss_listeners      are called when a loss is found, in the thread that found it
    """

    def __init__(self) -> None:
        self.observed = NOTHING_OBSERVED
        self.loss = ""
        self.history_generation = 0
        self.loss_listeners: list[Callable[[], None]] = []
        self._lock = threading.Lock()
        self._vouch_required_after = 0
        self._highest_unseen_epoch = 0
        self._broken_history_id = ""

    @property
    def history(self) -> History | None:
        """The history that this node is in; None if the auth service has begun none."""
        return self.observed.history

    @property
    def broken_history(self) -> str:
        """The id of the history that is known to have lost something; "" while no loss is known."""
        return self._broken_history_id if self.loss else ""

    @property
    def vouched(self) -> bool:
        """Whether the auth service has vouched that the history is complete, since this node last required it."""
        history = self.observed.history
        return not self.loss and (history is None or history.vouch_revision > self._vouch_required_after)

    def require_vouch_after(self, revision: int) -> None:
        """From now on only a vouch counts that was committed after this revision."""
        with self._lock:
            self._vouch_required_after = revision

    def record_read(self, since: Observation, now: Observation) -> Continuity:
        """Records a linearizable read, and returns how it relates to what had been observed.

        since: the value of `observed` before the read was sent. After NEW_HISTORY the caller must read everything again
        and then call `begin_history`.
        """
        continuity, reason = assess_continuity(since, now)
        with self._lock:
            if self.loss and continuity is not Continuity.LOST:
                # A restored etcd grows beyond every observed revision, so only another history ends a loss.
                recovered = now.history is not None and now.history.history_id != self._broken_history_id
                return Continuity.NEW_HISTORY if recovered else Continuity.LOST
            if continuity is Continuity.UNBROKEN:
                self.observed = merge_observations(self.observed, now)
            if continuity is not Continuity.LOST:
                return continuity
            if self.loss:
                return continuity  # the loss is known already
            history = now.history or since.history
            self.loss, self._broken_history_id = reason, "" if history is None else history.history_id
        self._notify_of_loss(reason)
        return continuity

    def report_loss(self, reason: str) -> None:
        """Records a loss that was found elsewhere. Does nothing without a history: there would be no recovery."""
        with self._lock:
            if self.loss or self.observed.history is None:
                return
            self.loss, self._broken_history_id = reason, self.observed.history.history_id
        self._notify_of_loss(reason)

    def begin_history(self, now: Observation) -> None:
        """Records that everything was read again, in another history."""
        with self._lock:
            if self.observed.history is not None or self.loss:
                self.history_generation += 1
            self.observed, self.loss, self._broken_history_id, self._highest_unseen_epoch = now, "", "", 0
            # A revision of the history before means nothing in this one. The auth service vouched by beginning it.
            self._vouch_required_after = 0

    def record_watched(self, revision: int, *, beacon: Beacon | None = None, history: History | None = None) -> None:
        """Records a revision that the watch has brought, with the beacon or the history that it contained."""
        with self._lock:
            observed = self.observed
            if beacon is not None and beacon.revision > observed.beacon_revision:
                observed = replace(observed, beacon_revision=beacon.revision, beacon_value=beacon.value)
            self.observed = replace(
                observed, revision=max(observed.revision, revision), history=history or observed.history
            )

    def note_unseen_epoch(self, epoch: int) -> None:
        """Records that a validly signed credential claims an epoch above every observed revision."""
        with self._lock:
            self._highest_unseen_epoch = max(self._highest_unseen_epoch, epoch)

    def highest_unseen_epoch(self) -> int:
        """Returns the highest epoch noted. Call it before reading etcd; then call `resolve_unseen_epoch`."""
        return self._highest_unseen_epoch

    def resolve_unseen_epoch(self, epoch: int, revision: int) -> None:
        """Compares an epoch that was noted with the revision of an etcd that was read after that.

        Reports a loss if etcd has not reached the epoch.
        """
        with self._lock:
            if self._highest_unseen_epoch <= epoch:
                self._highest_unseen_epoch = 0
        if epoch > revision:
            self.report_loss(f"a credential was issued as of revision {epoch}, and etcd is at {revision}")

    def _notify_of_loss(self, reason: str) -> None:
        _log.error(
            "etcd has lost a part of its history: %s. Was it restored from a backup? Until the auth service "
            "recovers from the loss, strict methods refuse, and all others use the trust bundle from before it",
            reason,
        )
        for listener in self.loss_listeners:
            listener()
