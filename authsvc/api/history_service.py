"""credmesh.admin.v1.HistoryService: whether etcd was ever restored from a backup, and what was done about it."""

from __future__ import annotations

import grpc

from authsvc.errors import FailedPrecondition
from authsvc.store.records import RecordError, parse_record
from credmesh.admin.v1 import history_pb2, history_pb2_grpc
from credmesh.store.v1 import mesh_pb2
from interceptors.etcd.client import EtcdClient
from interceptors.keyspace import Layout

__all__ = ["HistoryServicer"]


class HistoryServicer(history_pb2_grpc.HistoryServiceServicer):
    """Serves HistoryService on any replica. Errors are raised; authsvc.api.errors answers them."""

    def __init__(self, *, etcd: EtcdClient, layout: Layout) -> None:
        self._etcd = etcd
        self._layout = layout

    def GetHistory(
        self, request: history_pb2.GetHistoryRequest, context: grpc.ServicerContext
    ) -> history_pb2.GetHistoryResponse:
        """The history as its record tells it."""
        del request, context
        entry = self._etcd.read(self._layout.history).values.get(self._layout.history)
        if entry is None:
            return history_pb2.GetHistoryResponse()
        try:
            record = parse_record(mesh_pb2.History, entry.value)
        except RecordError as error:
            raise FailedPrecondition(f"this replica cannot read the history: {error}") from None
        history = history_pb2.History(
            history_id=record.history_id,
            began_at=record.began_at,
            cluster_id=f"{record.cluster_id:016x}",
            vouched_at=record.vouched_at if record.HasField("vouched_at") else None,
        )
        return history_pb2.GetHistoryResponse(history=history, lost=[_lost(one) for one in reversed(record.lost)])


def _lost(one: mesh_pb2.LostHistory) -> history_pb2.LostHistory:
    return history_pb2.LostHistory(
        history_id=one.history_id,
        answered_at=one.answered_at if one.HasField("answered_at") else None,
        answered_revision=one.answered_revision,
        highest_revision=one.highest_revision,
        reason=one.reason,
        noticed_by=one.noticed_by,
    )
