"""Deciding whether etcd continues the history that was observed in it. Pure.

An etcd that was restored from a backup goes back to an earlier revision. From there it makes another history, in which
the same revisions stand for other commits. Revocations made after the backup are gone, and credentials issued after the
backup claim revisions that the restored etcd has yet to reach. etcd itself gives no sign of this. An observer can tell
if it has seen more than etcd has now: a higher revision, a later beacon, another cluster id, or another history id. The
auth service draws a new history id (mesh/history) each time that it recovers from a loss.

Numbers show a loss only until the restored etcd has grown beyond what was lost. After that the beacon's random value
shows it: an observer compares the value that it saw at a revision with the value that etcd has for that revision now
(`Beacon`).

These find a loss by the rules of this module or by their own: `ContinuityMonitor` (a node's reads),
`TrustBundle._confirms_beacon` (the watch against the reads), `Verifier._has_unseen_epoch` (a credential's claim),
`Mirror._has_same_history` (a watch that resumes), and the auth service's `ContinuityGuard` (by its watermark).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from credmesh.store.v1 import mesh_pb2
from interceptors.stored_records import RecordError, parse_record

__all__ = [
    "NOTHING_OBSERVED",
    "Beacon",
    "Continuity",
    "History",
    "Observation",
    "assess_continuity",
    "merge_observations",
    "read_history",
]


@dataclass(frozen=True, slots=True)
class History:
    """A history of etcd, as the record mesh/history describes it.

    cluster_id      the etcd cluster that the history belongs to
    ancestors       the ids of the earlier histories, each of which ended by a loss
    vouch_revision  the revision of the newest vouch, by which the auth service confirmed that the history is complete
    """

    history_id: str
    cluster_id: int
    ancestors: frozenset[str] = frozenset()
    vouch_revision: int = 0


@dataclass(frozen=True, slots=True)
class Beacon:
    """The key mesh/beacon at some time.

    revision  when the key was put; 0 if it did not exist
    value     what the key held; None if that is unknown
    """

    revision: int
    value: bytes | None = None


@dataclass(frozen=True, slots=True)
class Observation:
    """How far an observer has seen etcd's history. Fields are 0 or None for what was never seen.

    revision         the highest revision that is known to exist
    beacon_revision  the highest revision at which mesh/beacon is known to have been put
    beacon_value     what mesh/beacon held as of beacon_revision
    """

    cluster_id: int = 0
    revision: int = 0
    beacon_revision: int = 0
    history: History | None = None
    beacon_value: bytes | None = None


NOTHING_OBSERVED: Final = Observation()


class Continuity(enum.Enum):
    """How etcd's present state relates to an earlier observation."""

    UNBROKEN = "nothing that was observed is missing"
    LOST = "something that was observed is missing, and the auth service has not recovered from that yet"
    NEW_HISTORY = "etcd is in another history, so everything has to be read again"


def assess_continuity(
    known: Observation, now: Observation, beacon_then: Beacon | None = None
) -> tuple[Continuity, str]:
    """Returns whether `now` continues what is known, and the reason why not, for people; "" if it does.

    known        the earlier observation
    now          what was read linearizably after `known` was complete
    beacon_then  the beacon as of the revision `known.beacon_revision`, as etcd has it now. Without it, an etcd that has
                 grown beyond a loss looks like one that has lost nothing
    """
    if now.history is not None and known.history is not None and now.history.history_id != known.history.history_id:
        if now.history.history_id in known.history.ancestors:
            return Continuity.LOST, f"it is in history {now.history.history_id} again, which had ended"
        return Continuity.NEW_HISTORY, f"history {now.history.history_id} has followed {known.history.history_id}"
    if now.history is not None and now.history.cluster_id != now.cluster_id:
        return Continuity.LOST, f"its history is of cluster {now.history.cluster_id:x}, and it is {now.cluster_id:x}"
    reason = _missing_part(known, now, beacon_then)
    if known.history is None:
        # The auth service has begun no history, so it would not recover from a loss. Reading again is all that helps.
        return (Continuity.NEW_HISTORY, reason) if reason else (Continuity.UNBROKEN, "")
    if now.history is None:
        return Continuity.LOST, f"the record of history {known.history.history_id} is gone"
    return (Continuity.LOST, reason) if reason else (Continuity.UNBROKEN, "")


def _missing_part(known: Observation, now: Observation, beacon_then: Beacon | None) -> str:
    """Returns what was observed and is missing now; "" if nothing is."""
    if known.cluster_id and now.cluster_id != known.cluster_id:
        return f"it is cluster {now.cluster_id:x}, and was {known.cluster_id:x}"
    if now.revision < known.revision:
        return f"it is at revision {now.revision}, and was at {known.revision}"
    if now.beacon_revision < known.beacon_revision:
        return f"the beacon was put at revision {now.beacon_revision} last, and had been at {known.beacon_revision}"
    if now.beacon_revision == known.beacon_revision:
        beacon_then = Beacon(now.beacon_revision, now.beacon_value)
    if beacon_then is not None:
        if beacon_then.revision != known.beacon_revision:
            return f"no beacon was put at revision {known.beacon_revision}, and one had been"
        if known.beacon_value is not None and beacon_then.value not in (None, known.beacon_value):
            return f"the beacon of revision {known.beacon_revision} is not the one that was put there"
    return ""


def merge_observations(one: Observation, other: Observation) -> Observation:
    """Returns what two observations of the same history show together. Of two histories, the later one is kept."""
    if one.history is None or other.history is None:
        newest = one.history or other.history
    elif one.history.history_id != other.history.history_id:
        return one if other.history.history_id in one.history.ancestors else other
    else:
        newest = max(one.history, other.history, key=lambda history: history.vouch_revision)
    # Two observations of the same beacon can differ in whether they know its value.
    latest = max(one, other, key=lambda each: (each.beacon_revision, each.beacon_value is not None))
    return Observation(
        cluster_id=other.cluster_id or one.cluster_id,
        revision=max(one.revision, other.revision),
        beacon_revision=latest.beacon_revision,
        history=newest,
        beacon_value=latest.beacon_value,
    )


def read_history(value: bytes, revision: int) -> History:
    """Parses the record mesh/history as it was put at `revision`. Raises RecordError."""
    record = parse_record(mesh_pb2.History, value)
    if not record.history_id:
        raise RecordError("the history_id is empty")
    return History(
        record.history_id,
        record.cluster_id,
        frozenset(lost.history_id for lost in record.lost),
        revision,
    )
