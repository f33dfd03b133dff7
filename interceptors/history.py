"""Telling whether etcd still has the past that was seen in it. Pure.

An etcd that is restored from a backup goes back to an earlier point of its history, and from there makes another one,
in which the same revisions mean something else. What was revoked after the backup is not revoked in it, and credentials
that were issued after the backup claim revisions that it has yet to reach. etcd itself gives no sign of it. But whoever
has seen more of the past than is there knows: by a revision that was reached and now is not, by a beacon that was moved
and now was not, by the id of the cluster, or by the id of the history, which the auth service draws anew whenever it
has answered such a loss (mesh/history).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from google.protobuf.message import DecodeError

from credmesh.store.v1 import mesh_pb2
from interceptors.keys import RecordError

__all__ = ["NOTHING", "Continuity", "History", "Sight", "further", "judge", "read_history"]

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
class Sight:
    """How far somebody has seen. Everything is 0 or None for who has seen nothing.

    revision  the highest revision that is known to exist
    beacon    the highest revision at which mesh/beacon is known to have been put
    """

    cluster_id: int = 0
    revision: int = 0
    beacon: int = 0
    history: History | None = None


NOTHING: Final = Sight()


class Continuity(enum.Enum):
    """What somebody who has seen something can say of what is there now."""

    UNBROKEN = "nothing that was seen is missing"
    LOST = "something that was seen is missing, and the auth service has not answered that yet"
    ANOTHER = "it is another history, all of which has to be read anew"


def judge(known: Sight, now: Sight) -> tuple[Continuity, str]:
    """Whether `now` goes on from what is known, and what speaks against it, for people.

    `now` must have been read linearizably, after `known` was put together.
    """
    there, then = now.history, known.history
    if there is not None and then is not None and there.history_id != then.history_id:
        if there.history_id in then.ancestors:
            return Continuity.LOST, f"it is in history {there.history_id} again, which had ended"
        return Continuity.ANOTHER, f"history {there.history_id} has followed {then.history_id}"
    if there is not None and there.cluster_id != now.cluster_id:
        return Continuity.LOST, f"its history is of cluster {there.cluster_id:x}, and it is {now.cluster_id:x}"
    why = _missing(known, now)
    if then is None:
        # Nobody has begun a history here, so nobody would answer: all that can be done is to read anew.
        return (Continuity.ANOTHER, why) if why else (Continuity.UNBROKEN, "")
    if there is None:
        return Continuity.LOST, f"history {then.history_id} has no record any more"
    return (Continuity.LOST, why) if why else (Continuity.UNBROKEN, "")


def _missing(known: Sight, now: Sight) -> str:
    if known.cluster_id and now.cluster_id != known.cluster_id:
        return f"it is cluster {now.cluster_id:x}, and was {known.cluster_id:x}"
    if now.revision < known.revision:
        return f"it is at revision {now.revision}, and was at {known.revision}"
    if now.beacon < known.beacon:
        return f"the beacon was put at revision {now.beacon} last, and had been at {known.beacon}"
    return ""


def further(one: Sight, other: Sight) -> Sight:
    """What two know together who have seen the same history. Of two histories the one that followed counts."""
    if one.history is None or other.history is None:
        newest = one.history or other.history
    elif one.history.history_id != other.history.history_id:
        return one if other.history.history_id in one.history.ancestors else other
    else:
        newest = max(one.history, other.history, key=lambda history: history.vouched_at)
    return Sight(
        cluster_id=other.cluster_id or one.cluster_id,
        revision=max(one.revision, other.revision),
        beacon=max(one.beacon, other.beacon),
        history=newest,
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
