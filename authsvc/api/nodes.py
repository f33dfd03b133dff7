"""credmesh.admin.v1.NodeService: the processes that verify credentials, and how current they are."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import grpc

from authsvc import barriers
from authsvc.paging import page
from authsvc.records import FORMAT, RecordError, parse_record
from authsvc.times import duration
from credmesh.admin.v1 import nodes_pb2, nodes_pb2_grpc
from credmesh.store.v1 import mesh_pb2
from interceptors.etcd.client import EtcdClient, EtcdUnavailable, Put, Snapshot
from interceptors.etcd.layout import Layout
from interceptors.etcd.mirror import Event, Mirror

__all__ = ["NodeServicer"]

_log: Final = logging.getLogger("credmesh.auth.nodes")

_PROBE_TIMEOUT: Final = 2.0
_PROBE_LEASE: Final = 10


@dataclass(frozen=True, slots=True)
class _Answer:
    """A node's answer to a probe: what it had applied, and when (monotonic seconds) we learned that."""

    revision: int
    at: float


class NodeServicer(nodes_pb2_grpc.NodeServiceServicer):
    """Serves NodeService on any replica. Errors are raised; authsvc.api.errors answers them."""

    def __init__(self, *, etcd: EtcdClient, layout: Layout, probe_timeout: float = _PROBE_TIMEOUT) -> None:
        self._etcd = etcd
        self._layout = layout
        self._probe_timeout = probe_timeout
        self._probing = threading.Lock()

    def ListNodes(
        self, request: nodes_pb2.ListNodesRequest, context: grpc.ServicerContext
    ) -> nodes_pb2.ListNodesResponse:
        """A page of the registered nodes; with `probe` each of these is asked to acknowledge."""
        layout = self._layout
        found = {
            layout.name(key, layout.nodes): entry.value
            for key, entry in self._etcd.read_prefix(layout.nodes).values.items()
        }
        names, token = page(found, name=str, size=request.page_size, token=request.page_token)
        nodes = [_message(node_id, found[node_id]) for node_id in names]
        if request.probe and nodes:
            # One at a time: each makes all nodes of the mesh write.
            with self._probing:
                committed_at, answers = self._probe(frozenset(names))
            for node in nodes:
                answer = answers.get(node.node_id)
                if answer is not None:
                    node.acknowledged = True
                    node.acknowledged_after.CopyFrom(duration(answer.at - committed_at))
                    node.applied_revision = answer.revision
        return nodes_pb2.ListNodesResponse(nodes=nodes, next_page_token=token)

    def _probe(self, nodes: frozenset[str]) -> tuple[float, Mapping[str, _Answer]]:
        """Raises a barrier and waits for these nodes; returns when it was committed, and the answers by node id."""
        barrier_id = f"probe-{secrets.token_hex(8)}"
        # If this replica dies meanwhile, the barrier goes with the lease.
        lease = self._etcd.grant(_PROBE_LEASE)
        deadline = time.monotonic() + self._probe_timeout
        answers = _Answers(self._etcd, self._layout, barrier_id, nodes)
        try:
            answers.listen(deadline)
            raised = barriers.raised(self._layout, barrier_id, "nodes", lease=lease)
            self._etcd.commit([], [raised, Put(self._layout.beacon, b"")])
            committed_at = time.monotonic()
            return committed_at, answers.wait(deadline)
        finally:
            answers.stop()
            self._lower(barrier_id, lease)

    def _lower(self, barrier_id: str, lease: int) -> None:
        try:
            self._etcd.commit([], [*barriers.lowered(self._layout, barrier_id), Put(self._layout.beacon, b"")])
            self._etcd.revoke_lease(lease)
        except EtcdUnavailable as error:
            _log.info("a probe could not be taken back, it goes with its lease: %s", error)


class _Answers:
    """Collects the acknowledgements of one barrier as they come in."""

    def __init__(self, etcd: EtcdClient, layout: Layout, barrier_id: str, nodes: frozenset[str]) -> None:
        self._layout = layout
        self._directory = barriers.acks_of(layout, barrier_id)
        self._missing = set(nodes)
        self._answers: dict[str, _Answer] = {}
        self._changed = threading.Condition()
        self._mirror = Mirror(
            etcd.settings, self._directory, on_snapshot=self._on_snapshot, on_events=self._on_events, name="probe"
        )

    def listen(self, deadline: float) -> None:
        """Begins to listen, before the barrier is raised, so that quick answers are timed well."""
        self._mirror.start()
        self._mirror.wait_ready(deadline - time.monotonic())

    def wait(self, deadline: float) -> Mapping[str, _Answer]:
        """The answers so far when all are in, or at the deadline."""
        with self._changed:
            self._changed.wait_for(lambda: not self._missing, max(deadline - time.monotonic(), 0.0))
            return dict(self._answers)

    def stop(self) -> None:
        self._mirror.stop()

    def _on_snapshot(self, snapshot: Snapshot) -> None:
        self._take({key: entry.value for key, entry in snapshot.values.items()})

    def _on_events(self, events: Sequence[Event], _revision: int) -> None:
        self._take({event.key: event.value for event in events if event.value is not None})

    def _take(self, acks: Mapping[str, bytes]) -> None:
        now = time.monotonic()
        with self._changed:
            for key, value in acks.items():
                node_id = self._layout.name(key, self._directory)
                revision = barriers.acked_revision(node_id, value)
                if revision and node_id not in self._answers:
                    self._answers[node_id] = _Answer(revision, now)
                    self._missing.discard(node_id)
            self._changed.notify_all()


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
    )
