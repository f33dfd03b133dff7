"""credmesh.admin.v1.NodeService: the registered nodes, and how fresh they are."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Final

import grpc

from authsvc.api.concurrency import ConcurrencyLimit
from authsvc.api.paging import page
from authsvc.coordination import barriers
from authsvc.coordination.acknowledgements import AckTracker, NodeAck
from authsvc.store.timestamps import duration
from credmesh.admin.v1 import nodes_pb2, nodes_pb2_grpc
from credmesh.store.v1 import mesh_pb2
from interceptors.etcd.client import EtcdClient
from interceptors.keyspace import Layout, beacon_update
from interceptors.stored_records import FORMAT, RecordError, parse_record

__all__ = ["NodeServicer"]

_log: Final = logging.getLogger("credmesh.auth.nodes")

_PROBE_TIMEOUT_SECONDS: Final = 2.0
_PROBE_LEASE_SECONDS: Final = 10
_MAX_PROBES: Final = 2
"""Each call that probes, or waits to probe, holds a thread until all nodes acknowledge or the timeout passes."""


class NodeServicer(nodes_pb2_grpc.NodeServiceServicer):
    """Serves NodeService on any replica. authsvc.api.status_mapping maps the exceptions to statuses."""

    def __init__(
        self,
        *,
        etcd: EtcdClient,
        layout: Layout,
        ack_tracker: AckTracker,
        probe_timeout: float = _PROBE_TIMEOUT_SECONDS,
        max_probes: int = _MAX_PROBES,
    ) -> None:
        self._etcd = etcd
        self._layout = layout
        self._ack_tracker = ack_tracker
        self._probe_timeout = probe_timeout
        self._probe_lock = threading.Lock()
        self._probe_limit = ConcurrencyLimit(
            max_probes,
            "too many calls probe the nodes at this replica already; list without probe, or retry in a few seconds",
        )

    def ListNodes(
        self, request: nodes_pb2.ListNodesRequest, context: grpc.ServicerContext
    ) -> nodes_pb2.ListNodesResponse:
        """Returns a page of the registered nodes. With `probe` they are asked to acknowledge a barrier."""
        layout = self._layout
        registrations = barriers.select_registrations(layout, self._etcd.read_prefix(layout.nodes).values)
        records = {node_id: entry.value for node_id, entry in registrations.items()}
        names, token = page(records, name=str, size=request.page_size, token=request.page_token)
        nodes = [_message(node_id, records[node_id]) for node_id in names]
        if request.probe and nodes:
            # One probe at a time: each makes all nodes of the mesh write to etcd.
            with self._probe_limit.slot(), self._probe_lock:
                committed_at, acks = self._probe(names)
            for node in nodes:
                ack = acks.get(node.node_id)
                if ack is not None:
                    node.acknowledged = True
                    node.acknowledged_after.CopyFrom(duration(ack.at - committed_at))
                    node.applied_revision = ack.revision
                    if ack.freshness_age is not None:
                        node.freshness_age.CopyFrom(duration(ack.freshness_age))
        return nodes_pb2.ListNodesResponse(nodes=nodes, next_page_token=token)

    def _probe(self, nodes: Sequence[str]) -> tuple[float, Mapping[str, NodeAck]]:
        """Raises a barrier and waits for these nodes.

        Returns when the barrier was committed (time.monotonic()), and the acknowledgements by node id.
        """
        barrier_id = f"probe-{secrets.token_hex(8)}"
        # If this replica dies meanwhile, the barrier expires with the lease.
        lease = self._etcd.grant(_PROBE_LEASE_SECONDS)
        deadline = time.monotonic() + self._probe_timeout
        with self._ack_tracker.collect_for_own_barrier(barrier_id) as collector:
            raised = barriers.raise_operation(self._layout, barrier_id, "nodes", lease=lease)
            revision = self._etcd.commit([], [raised, beacon_update(self._layout)]) or 0
            committed_at = time.monotonic()
            collector.wait_until(lambda: all(collector.has_applied(node_id, revision) for node_id in nodes), deadline)
            return committed_at, collector.acks


def _message(node_id: str, value: bytes) -> nodes_pb2.Node:
    try:
        record = parse_record(mesh_pb2.NodeRecord, value)
    except RecordError as error:
        # Rotations and probes wait for this node, so it is listed, by the id in its etcd key.
        _log.error("the record of node %r cannot be read: %s", node_id, error)
        record = mesh_pb2.NodeRecord(format=FORMAT)
    return nodes_pb2.Node(
        node_id=node_id,
        service=record.service,
        address=record.address,
        version=record.version,
        registered_at=record.registered_at if record.HasField("registered_at") else None,
        longest_freshness=record.longest_freshness if record.HasField("longest_freshness") else None,
    )
