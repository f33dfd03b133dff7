"""Telling whether etcd still has the monitor that was seen in it. Pure.

An etcd that is restored from a backup goes back to an earlier point of its history, and from there makes another one,
in which the same revisions mean something else. What was revoked after the backup is not revoked in it, and credentials
that were issued after the backup claim revisions that it has yet to reach. etcd itself gives no sign of it. But whoever
has seen more of the past than is there knows: by a revision that was reached and now is not, by a beacon that was
moved and now was not, by the id of the cluster, or by the id of the history, which the auth service draws anew whenever
it
has answered such a loss (mesh/history).

Numbers tell only until the restored etcd has outgrown what was lost. From then on it is told by what the beacon holds,
which is random: whoever has seen it at some revision can ask what it holds as of that revision now (`Beacon`).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from google.protobuf.message import DecodeError

from credmesh.store.v1 import mesh_pb2
from interceptors.tokens.verification_key import RecordError

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

_FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class History:
    """A history, as its record tells.

    cluster_id  the etcd cluster that it is in
    ancestors   the ids of the histories that ended before it, each by a loss
    vouched_at  the revision at which the auth service last made sure that nothing of it is missing
    """

    history_id: str
    cluster_id: int
    ancestors: frozenset[str] = frozenset()
    vouched_at: int = 0


@dataclass(frozen=True, slots=True)
class Beacon:
    """mesh/beacon as it is, or was: when it was put, 0 if it was not there, and what it holds; None if nobody knows."""

    revision: int
    value: bytes | None = None


@dataclass(frozen=True, slots=True)
class Observation:
    """How far somebody has seen. Everything is 0 or None for who has seen nothing.

    revision      the highest revision that is known to exist
    beacon        the highest revision at which mesh/beacon is known to have been put
    beacon_value  what was put then
    """

    cluster_id: int = 0
    revision: int = 0
    beacon: int = 0
    history: History | None = None
    beacon_value: bytes | None = None


NOTHING_OBSERVED: Final = Observation()


class Continuity(enum.Enum):
    """What somebody who has seen something can say of what is there now."""

    UNBROKEN = "nothing that was seen is missing"
    LOST = "something that was seen is missing, and the auth service has not answered that yet"
    ANOTHER = "it is another history, all of which has to be read anew"


def assess_continuity(
    known: Observation, now: Observation, beacon_then: Beacon | None = None
) -> tuple[Continuity, str]:
    """Whether `now` goes on from what is known, and what speaks against it, for people.

    `now` must have been read linearizably, after `known` was put together.

    beacon_then: the beacon as of the revision `known.beacon`, as etcd has it now. Without it, an etcd that has lost
    something and has outgrown that is not told from one that has lost nothing.
    """
    there, then = now.history, known.history
    if there is not None and then is not None and there.history_id != then.history_id:
        if there.history_id in then.ancestors:
            return Continuity.LOST, f"it is in history {there.history_id} again, which had ended"
        return Continuity.ANOTHER, f"history {there.history_id} has followed {then.history_id}"
    if there is not None and there.cluster_id != now.cluster_id:
        return Continuity.LOST, f"its history is of cluster {there.cluster_id:x}, and it is {now.cluster_id:x}"
    why = _missing(known, now, beacon_then)
    if then is None:
        # Nobody has begun a history here, so nobody would answer: all that can be done is to read anew.
        return (Continuity.ANOTHER, why) if why else (Continuity.UNBROKEN, "")
    if there is None:
        return Continuity.LOST, f"history {then.history_id} has no record any more"
    return (Continuity.LOST, why) if why else (Continuity.UNBROKEN, "")


def _missing(known: Observation, now: Observation, then: Beacon | None) -> str:
    if known.cluster_id and now.cluster_id != known.cluster_id:
        return f"it is cluster {now.cluster_id:x}, and was {known.cluster_id:x}"
    if now.revision < known.revision:
        return f"it is at revision {now.revision}, and was at {known.revision}"
    if now.beacon < known.beacon:
        return f"the beacon was put at revision {now.beacon} last, and had been at {known.beacon}"
    if now.beacon == known.beacon:
        then = Beacon(now.beacon, now.beacon_value)
    if then is not None:
        if then.revision != known.beacon:
            return f"no beacon was put at revision {known.beacon}, and one had been"
        if known.beacon_value is not None and then.value not in (None, known.beacon_value):
            return f"the beacon of revision {known.beacon} is not the one that was put there"
    return ""


def merge_observations(one: Observation, other: Observation) -> Observation:
    """What two know together who have seen the same history. Of two histories the one that followed counts."""
    if one.history is None or other.history is None:
        newest = one.history or other.history
    elif one.history.history_id != other.history.history_id:
        return one if other.history.history_id in one.history.ancestors else other
    else:
        newest = max(one.history, other.history, key=lambda history: history.vouched_at)
    # Of two that saw the same beacon one may know what it held.
    moved = max(one, other, key=lambda observation: (observation.beacon, observation.beacon_value is not None))
    return Observation(
        cluster_id=other.cluster_id or one.cluster_id,
        revision=max(one.revision, other.revision),
        beacon=moved.beacon,
        history=newest,
        beacon_value=moved.beacon_value,
    )


def read_history(value: bytes, revision: int) -> History:
    """Reads a mesh/history record that was put at `revision`. RecordError if it is foreign, or newer than this code."""
    try:
        record = mesh_pb2.History.FromString(value)
    except DecodeError:
        raise RecordError("not a History record") from None
    if record.format != _FORMAT or not record.history_id:
        raise RecordError(f"format {record.format} is unknown here (only {_FORMAT}); is this node older than the mesh?")
    return History(
        record.history_id,
        record.cluster_id,
        frozenset(lost.history_id for lost in record.lost),
        revision,
    )
