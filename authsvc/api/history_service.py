"""credmesh.admin.v1.HistoryService: the history of the etcd in use, and the histories that were lost."""

from __future__ import annotations

import grpc

from authsvc.errors import FailedPrecondition
from credmesh.admin.v1 import history_pb2, history_pb2_grpc
from credmesh.store.v1 import mesh_pb2
from interceptors.etcd.client import EtcdClient
from interceptors.keyspace import Layout
from interceptors.stored_records import RecordError, parse_record

__all__ = ["HistoryServicer"]


class HistoryServicer(history_pb2_grpc.HistoryServiceServicer):
    """Serves HistoryService on any replica. authsvc.api.status_mapping maps the exceptions to statuses."""

    def __init__(self, *, etcd: EtcdClient, layout: Layout) -> None:
        self._etcd = etcd
        self._layout = layout

    def GetHistory(
        self, request: history_pb2.GetHistoryRequest, context: grpc.ServicerContext
    ) -> history_pb2.GetHistoryResponse:
        """Returns the history, and the lost histories before it, newest first."""
        del request, context
        entry = self._etcd.read(self._layout.history).values.get(self._layout.history)
        if entry is None:
            return history_pb2.GetHistoryResponse()
        try:
            record = parse_record(mesh_pb2.History, entry.value)
        except RecordError as error:
            raise FailedPrecondition(f"this replica cannot read the record of the history: {error}") from None
        history = history_pb2.History(
            history_id=record.history_id,
            began_at=record.began_at,
            cluster_id=f"{record.cluster_id:016x}",
            vouched_at=record.vouched_at if record.HasField("vouched_at") else None,
        )
        return history_pb2.GetHistoryResponse(
            history=history, lost=[_lost_history(lost) for lost in reversed(record.lost)]
        )


def _lost_history(lost: mesh_pb2.LostHistory) -> history_pb2.LostHistory:
    return history_pb2.LostHistory(
        history_id=lost.history_id,
        answered_at=lost.answered_at if lost.HasField("answered_at") else None,
        answered_revision=lost.answered_revision,
        highest_revision=lost.highest_revision,
        reason=lost.reason,
        noticed_by=lost.noticed_by,
    )
