"""What a node has observed of etcd, and what follows when some of it is gone.

A node that finds a loss keeps what it knows: the restored etcd knows of fewer revocations. It proves nothing any more,
so that strict methods refuse, says so in its registration, and reads all anew when the auth service has answered the
loss by another history. A node that has seen nothing, or has been out of touch, cannot find a loss by itself: its
proofs count only once the auth service has vouched, after the node came (back), that nothing is missing.
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

__all__ = ["OUT_OF_TOUCH_SECONDS", "ContinuityMonitor"]

_log: Final = logging.getLogger("credmesh.node")

OUT_OF_TOUCH_SECONDS: Final = 2.5
"""Seconds: no etcd is restored in less from a backup that was made before something was revoked in it."""


class ContinuityMonitor:
    """Thread-safe; attributes may be read without a lock.

    observation      how far this node has seen
    lost       what is missing of it, for people; "" while nothing is
    history_generation        moves on with every other history: nothing that was accepted in one counts in the next
    listeners  are called when something is found missing, in the thread that found it
    """

    def __init__(self) -> None:
        self.observed = NOTHING_OBSERVED
        self.lost = ""
        self.history_generation = 0
        self.listeners: list[Callable[[], None]] = []
        self._lock = threading.Lock()
        self._vouch_wanted_at = 0
        self._highest_unseen_epoch = 0
        self._broken = ""

    @property
    def history(self) -> History | None:
        """The history that this node is in; None where the auth service has begun none."""
        return self.observed.history

    @property
    def broken_history(self) -> str:
        """The id of the history that has lost something; "" while none has."""
        return self._broken if self.lost else ""

    @property
    def vouched(self) -> bool:
        """Whether the auth service has made sure, since this node wanted it, that nothing is missing."""
        history = self.observed.history
        return not self.lost and (history is None or history.vouched_at > self._vouch_wanted_at)

    def require_vouch_after(self, revision: int) -> None:
        """From here on only a vouch counts that was committed after this revision."""
        with self._lock:
            self._vouch_wanted_at = revision

    def record_read(self, since: Observation, now: Observation) -> Continuity:
        """Takes in what was read linearizably, when `since` was already known (a value of `observation` before the
        read).

        ANOTHER leaves it to the caller to read everything and `begin_history` anew.
        """
        verdict, why = assess_continuity(since, now)
        with self._lock:
            if self.lost and verdict is not Continuity.LOST:
                # Time alone mends nothing: a restored etcd outgrows every revision that was seen.
                answered = now.history is not None and now.history.history_id != self._broken
                return Continuity.ANOTHER if answered else Continuity.LOST
            if verdict is Continuity.UNBROKEN:
                self.observed = merge_observations(self.observed, now)
            if verdict is not Continuity.LOST or self.lost:
                return verdict
            history = now.history or since.history
            self.lost, self._broken = why, "" if history is None else history.history_id
        self._tell(why)
        return verdict

    def report_loss(self, why: str) -> None:
        """Something is missing, as somebody else has found out. Where there is no history nobody would answer it."""
        with self._lock:
            if self.lost or self.observed.history is None:
                return
            self.lost, self._broken = why, self.observed.history.history_id
        self._tell(why)

    def begin_history(self, now: Observation) -> None:
        """All was read anew, in another history."""
        with self._lock:
            if self.observed.history is not None or self.lost:
                self.history_generation += 1
            self.observed, self.lost, self._broken, self._highest_unseen_epoch = now, "", "", 0
            # Revisions of the history before say nothing in this one, and beginning it was as good as vouching for it.
            self._vouch_wanted_at = 0

    def record_watched(self, revision: int, *, beacon: Beacon | None = None, history: History | None = None) -> None:
        """The watch has brought this revision."""
        with self._lock:
            observation = self.observed
            if beacon is not None and beacon.revision > observation.beacon:
                observation = replace(observation, beacon=beacon.revision, beacon_value=beacon.value)
            self.observed = replace(
                observation, revision=max(observation.revision, revision), history=history or observation.history
            )

    def note_unseen_epoch(self, epoch: int) -> None:
        """A credential of ours, rightly signed, claims a revision that this node has not heard of."""
        with self._lock:
            self._highest_unseen_epoch = max(self._highest_unseen_epoch, epoch)

    def highest_unseen_epoch(self) -> int:
        """The highest revision that was claimed. To be asked before etcd is, and settled by what it says."""
        return self._highest_unseen_epoch

    def resolve_unseen_epoch(self, highest_unseen_epoch: int, revision: int) -> None:
        """Etcd, asked after `highest_unseen_epoch` was known, is at this revision."""
        with self._lock:
            if self._highest_unseen_epoch <= highest_unseen_epoch:
                self._highest_unseen_epoch = 0
        if highest_unseen_epoch > revision:
            self.report_loss(
                f"a credential was issued as of revision {highest_unseen_epoch}, and etcd is at {revision}"
            )

    def _tell(self, why: str) -> None:
        _log.error(
            "etcd has lost a part of its history: %s. Was it restored from a backup? Until the auth service answers "
            "that, strict methods refuse, and all others go by what was known before",
            why,
        )
        for listener in self.listeners:
            listener()
