"""The record of etcd's history (`mesh/history`): reading it, and building the next one.

The record names the history that the mesh is in, and the histories that ended before it because etcd lost a part of
them. A history that has no record was never begun: the mesh is new.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from authsvc.store.timestamps import stamp
from credmesh.store.v1 import mesh_pb2
from interceptors.etcd.client import EtcdClient, EtcdUnavailable
from interceptors.keyspace import Layout
from interceptors.stored_records import FORMAT, RecordError, parse_record
from interceptors.trust.continuity import History, Observation, read_history

__all__ = ["CurrentHistory", "Loss", "list_lost_histories", "make_history_record", "read_current_history"]

_MAX_LOST_HISTORIES: Final = 100


@dataclass(frozen=True, slots=True)
class CurrentHistory:
    """The history as etcd has it now, from one linearizable read.

    observed  what the read tells about etcd's state, for a comparison with earlier observations
    record    the record; empty if there is none
    revision  the revision that put the record; 0 if there is none
    """

    observed: Observation
    record: mesh_pb2.History
    revision: int

    @property
    def history(self) -> History | None:
        """The history that the record names; None if there is no record."""
        return self.observed.history


@dataclass(frozen=True, slots=True)
class Loss:
    """A loss of a part of the history.

    reason            what shows the loss, for people
    noticed_by        the id of the node that found the loss
    highest_revision  the highest revision that is known to have existed before the loss
    """

    reason: str
    noticed_by: str
    highest_revision: int


def read_current_history(etcd: EtcdClient, layout: Layout) -> CurrentHistory:
    """Reads record and beacon linearizably. EtcdUnavailable, also for a record that this replica cannot read."""
    snapshot = etcd.read(layout.history, layout.beacon)
    beacon = snapshot.values.get(layout.beacon)
    observed = Observation(snapshot.cluster_id, snapshot.revision)
    if beacon is not None:
        observed = replace(observed, beacon_revision=beacon.mod_revision, beacon_value=beacon.value)
    entry = snapshot.values.get(layout.history)
    if entry is None:
        return CurrentHistory(observed, mesh_pb2.History(), 0)
    try:
        history = read_history(entry.value, entry.mod_revision)
        record = parse_record(mesh_pb2.History, entry.value)
    except RecordError as error:
        # A newer replica may have written it. Anything that this replica did about it would rest on a guess.
        raise EtcdUnavailable(f"{layout.history} cannot be used: {error}") from error
    return CurrentHistory(replace(observed, history=history), record, entry.mod_revision)


def make_history_record(cluster_id: int, lost: Sequence[mesh_pb2.LostHistory], now: float) -> mesh_pb2.History:
    """Makes the record of a history that begins now, with a random id.

    lost  the histories that ended before it
    now   seconds since 1970
    """
    return mesh_pb2.History(
        format=FORMAT, history_id=secrets.token_hex(8), cluster_id=cluster_id, began_at=stamp(now), lost=lost
    )


def list_lost_histories(
    current: CurrentHistory, known: Observation, loss: Loss, now: float
) -> list[mesh_pb2.LostHistory]:
    """Lists every history that has ended, at most 100. The history that `loss` ends is the last.

    known: what this replica has observed; it may know of histories that a restored record does not name.
    """
    lost = {entry.history_id: entry for entry in current.record.lost}
    if known.history is not None:
        for history_id in (*sorted(known.history.ancestors), known.history.history_id):
            lost.setdefault(history_id, mesh_pb2.LostHistory(history_id=history_id))
    ending = current.record.history_id or (known.history.history_id if known.history is not None else "")
    lost.pop(ending, None)
    lost[ending] = mesh_pb2.LostHistory(
        history_id=ending,
        answered_at=stamp(now),
        highest_revision=loss.highest_revision,
        reason=loss.reason,
        noticed_by=loss.noticed_by,
        answered_revision=current.observed.revision,
    )
    return list(lost.values())[-_MAX_LOST_HISTORIES:]
