"""The recovery from the loss of a part of etcd's history: one commit that ends everything that was issued."""

from __future__ import annotations

import logging
from typing import Final

from prometheus_client import Counter

from authsvc.audit import audit
from authsvc.continuity.history_record import CurrentHistory, Loss, list_lost_histories, make_history_record
from authsvc.revocation.revoker import Revoker
from authsvc.store.timestamps import stamp
from credmesh.store.v1 import auth_pb2
from interceptors.etcd.client import Delete, Put, Unchanged
from interceptors.keyspace import Layout
from interceptors.scopes import EVERYONE
from interceptors.stored_records import FORMAT
from interceptors.trust.continuity import History, Observation, read_history

__all__ = ["recover_from_loss"]

_log: Final = logging.getLogger("credmesh.auth.history")
_losses: Final = Counter(
    "credmesh_auth_history_losses", "Losses of a part of etcd's history from which this replica has recovered the mesh."
)

_ACTOR: Final = "history"


def recover_from_loss(
    revoker: Revoker, layout: Layout, current: CurrentHistory, known: Observation, loss: Loss, now: float
) -> History | None:
    """Removes all signing keys and sessions, revokes everyone and begins another history, in one commit.

    current  the history that has lost something, as etcd has it
    known    what this replica has observed
    now      seconds since 1970

    Returns the history that has begun; None if another replica has changed the history first, and nothing was done.
    Raises EtcdUnavailable.
    """
    _log.critical(
        "etcd has lost a part of its history: %s. Nothing that was issued before counts any more: all signing keys are "
        "removed and every session ends. `credmesh history` shows what was lost and what to do next",
        loss.reason,
    )
    lost = list_lost_histories(current, known, loss, now)
    record = make_history_record(current.observed.cluster_id, lost, now)
    value = record.SerializeToString()
    request = auth_pb2.RotationRequest(format=FORMAT, actor=_ACTOR, requested_at=stamp(now))
    revision = revoker.revoke_all(
        [EVERYONE],
        actor=_ACTOR,
        reason=f"etcd has lost a part of its history: {loss.reason}",
        extra_conditions=[Unchanged(layout.history, current.revision)],
        extra_operations=[
            Put(layout.history, value),
            Delete(layout.keys, prefix=True),
            Delete(layout.vault, prefix=True),
            Delete(layout.signing),
            Delete(layout.sessions, prefix=True),
            # Barriers and acknowledgements belong to the history that has ended.
            Delete(layout.barriers, prefix=True),
            Delete(layout.acks, prefix=True),
            Put(layout.rotation, request.SerializeToString()),
        ],
    )
    if revision is None:
        return None
    _losses.inc()
    audit(
        "history.lost",
        history_id=lost[-1].history_id,
        next_history_id=record.history_id,
        reason=loss.reason,
        noticed_by=loss.noticed_by,
        highest_revision=loss.highest_revision,
        etcd_revision=current.observed.revision,
        revision=revision,
    )
    return read_history(value, revision)
