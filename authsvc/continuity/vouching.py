"""Vouching: an auth replica confirms that etcd's history is complete.

A node that has just started, or was out of touch, cannot tell whether etcd has lost something. It registers, and its
proofs of freshness count only after a vouch that was committed later than its registration (see
interceptors.trust.continuity_monitor). The leader vouches. If no replica leads, any replica does, a second later.

A vouch takes three steps: write a mark, check the history, put the history's record again. The revision of that put is
the vouch (History.vouch_revision). The third step is committed only if the mark is still there. An etcd that was
restored in between does not have it.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from typing import Final

from authsvc.continuity.history_record import CurrentHistory
from authsvc.coordination.acknowledgements import AckTracker
from authsvc.coordination.election import LeaderJob
from authsvc.store.timestamps import stamp
from interceptors.etcd.client import CreatedAt, EtcdClient, NoneSince, Put, Snapshot, Unchanged
from interceptors.keyspace import Layout, beacon_update

__all__ = ["HistoryVoucher"]

_MIN_PAUSE_SECONDS: Final = 0.1
_PAUSE_SECONDS_PER_NODE: Final = 0.0002
"""The shortest pause between two vouches, and what each registered node adds to it: a vouch is an event at every
node."""
_MAX_WAIT_FOR_LEADER_SECONDS: Final = 1.0
_IDLE_SECONDS: Final = 3600.0
"""Until the job runs again by itself. Every registration wakes it earlier."""


class HistoryVoucher:
    """Vouches for the history when a registered node needs it. One per replica.

    check  compares etcd with what this replica knows. Takes the registrations just read; returns the history, or None
           if something is missing or the history has just changed
    clock  seconds since 1970, for people to read
    job    vouches while this replica leads
    """

    def __init__(
        self,
        *,
        etcd: EtcdClient,
        layout: Layout,
        ack_tracker: AckTracker,
        check: Callable[[Snapshot], CurrentHistory | None],
        clock: Callable[[], float],
    ) -> None:
        self._etcd = etcd
        self._layout = layout
        self._ack_tracker = ack_tracker
        self._check = check
        self._clock = clock
        self._tried_at = 0.0  # when this replica last tried to commit a vouch, by time.monotonic
        self._needed_since: float | None = None
        self.job: Final = LeaderJob(self._vouch_as_leader, wakes_on=(layout.nodes,), name="history")

    def vouch_if_overdue(self, current: CurrentHistory) -> None:
        """Vouches without leading, if a node has needed a vouch for a second. Raises EtcdUnavailable.

        current: the history that a check has just found complete. Call it from one thread only.
        """
        now = time.monotonic()
        if all(node.revision <= current.revision for node in self._ack_tracker.registered_nodes.values()):
            self._needed_since = None
        elif self._needed_since is None:
            self._needed_since = now
        elif now - self._needed_since >= _MAX_WAIT_FOR_LEADER_SECONDS:
            # Without a fence two replicas may vouch at once, and each has checked.
            self._vouch([], _MIN_PAUSE_SECONDS)

    def _vouch_as_leader(self, fence: CreatedAt) -> float:
        """Vouches if a node has registered since the last vouch. Returns the seconds until the next run."""
        node_count = len(self._ack_tracker.registered_nodes)
        pause = max(_MIN_PAUSE_SECONDS, node_count * _PAUSE_SECONDS_PER_NODE)
        remaining = self._tried_at + pause - time.monotonic()
        if remaining > 0:
            return remaining
        return self._vouch([fence], pause)

    def _vouch(self, fence: Sequence[CreatedAt], pause: float) -> float:
        """Marks, checks and vouches. Returns the seconds until the next run.

        Why a check of the old etcd never vouches for a restored one:

        - The vouch requires the mark. An etcd that was restored after the check, from a backup made before the mark,
          does not have it. The mark is compared by its random value too: in a restored etcd another replica's mark may
          have the same revision.
        - A backup made after the mark does have it. In an etcd restored from it all nodes register again. If one does
          so before the vouch, the vouch fails: it requires that no node has registered after the mark. If later, the
          node waits for the next vouch, which another check precedes.
        """
        mark = secrets.token_hex(16).encode()
        mark_revision = self._etcd.commit(fence, [Put(self._layout.check, mark)])
        if mark_revision is None:
            return _IDLE_SECONDS  # the fence does not hold: another replica leads
        nodes = self._etcd.read_prefix(self._layout.nodes)
        current = self._check(nodes)
        if current is None:
            return _MIN_PAUSE_SECONDS
        if all(entry.mod_revision <= current.revision for entry in nodes.values.values()):
            return _IDLE_SECONDS
        current.record.vouched_at.CopyFrom(stamp(self._clock()))
        self._etcd.commit(
            [
                *fence,
                Unchanged(self._layout.history, current.revision),
                Unchanged(self._layout.check, mark_revision, mark),
                NoneSince(self._layout.nodes, mark_revision),
            ],
            [Put(self._layout.history, current.record.SerializeToString()), beacon_update(self._layout)],
        )
        # If a condition failed, the next run tries again.
        self._tried_at = time.monotonic()
        return pause
