"""credmesh.admin.v1.NodeService: the processes that verify credentials, and how current they are."""

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
from authsvc.store.records import FORMAT, RecordError, parse_record
from authsvc.store.timestamps import duration
from credmesh.admin.v1 import nodes_pb2, nodes_pb2_grpc
from credmesh.store.v1 import mesh_pb2
from interceptors.etcd.client import EtcdClient
from interceptors.keyspace import Layout, moved_beacon

__all__ = ["NodeServicer"]

_log: Final = logging.getLogger("credmesh.auth.nodes")

_PROBE_TIMEOUT: Final = 2.0
_PROBE_LEASE: Final = 10
_PROBES: Final = 2
"""So many may probe, or wait for their turn: each holds a thread, for long if a node is silent."""


class NodeServicer(nodes_pb2_grpc.NodeServiceServicer):
    """Serves NodeService on any replica. Errors are raised; authsvc.api.errors answers them."""

    def __init__(
        self,
        *,
        etcd: EtcdClient,
        layout: Layout,
        ack_tracker: AckTracker,
        probe_timeout: float = _PROBE_TIMEOUT,
        probes: int = _PROBES,
    ) -> None:
        self._etcd = etcd
        self._layout = layout
        self._ack_tracker = ack_tracker
        self._probe_timeout = probe_timeout
        self._probing = threading.Lock()
        self._probes = ConcurrencyLimit(
            probes, "as many probe the nodes at this replica as may; ask without probe, or again in a few seconds"
        )

    def ListNodes(
        self, request: nodes_pb2.ListNodesRequest, context: grpc.ServicerContext
    ) -> nodes_pb2.ListNodesResponse:
        """A page of the registered nodes; with `probe` each of these is asked to acknowledge."""
        layout = self._layout
        live = barriers.live_nodes(layout, self._etcd.read_prefix(layout.nodes).values)
        found = {node_id: entry.value for node_id, entry in live.items()}
        names, token = page(found, name=str, size=request.page_size, token=request.page_token)
        nodes = [_message(node_id, found[node_id]) for node_id in names]
        if request.probe and nodes:
            # One at a time: each makes all nodes of the mesh write.
            with self._probes.taken(), self._probing:
                committed_at, answers = self._probe(names)
            for node in nodes:
                answer = answers.get(node.node_id)
                if answer is not None:
                    node.acknowledged = True
                    node.acknowledged_after.CopyFrom(duration(answer.at - committed_at))
                    node.applied_revision = answer.revision
                    if answer.freshness_age is not None:
                        node.freshness_age.CopyFrom(duration(answer.freshness_age))
        return nodes_pb2.ListNodesResponse(nodes=nodes, next_page_token=token)

    def _probe(self, nodes: Sequence[str]) -> tuple[float, Mapping[str, NodeAck]]:
        """Raises a barrier and waits for these nodes; returns when it was committed, and the answers by node id."""
        barrier_id = f"probe-{secrets.token_hex(8)}"
        # If this replica dies meanwhile, the barrier goes with the lease.
        lease = self._etcd.grant(_PROBE_LEASE)
        deadline = time.monotonic() + self._probe_timeout
        with self._ack_tracker.waiting(barrier_id) as waiting:
            raised = barriers.raised(self._layout, barrier_id, "nodes", lease=lease)
            revision = self._etcd.commit([], [raised, moved_beacon(self._layout)]) or 0
            committed_at = time.monotonic()
            waiting.wait(lambda: all(waiting.has_applied(node_id, revision) for node_id in nodes), deadline)
            return committed_at, waiting.answers


def _message(node_id: str, value: bytes) -> nodes_pb2.Node:
    try:
        record = parse_record(mesh_pb2.NodeRecord, value)
    except RecordError as error:
        # Rotations and probes wait for it all the same, so it is shown, by what its key tells.
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
