"""Barriers: a record below `mesh/` that asks every node to acknowledge the record's revision.

A node acknowledges once it has applied that revision, and so every commit up to it. The registered nodes are read after
the barrier is raised. A node that registers later reads the mesh later still, so it has applied the commit already.

A node's registration lies under the node's lease. A key below `nodes/` without a lease is no registration: it would
never expire, and a barrier would wait for it forever.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Final

from credmesh.store.v1 import mesh_pb2
from interceptors.etcd.client import Delete, EtcdClient, KeyValue, Put
from interceptors.keyspace import Layout
from interceptors.stored_records import FORMAT, RecordError, parse_record

__all__ = [
    "acks_directory",
    "is_registration",
    "raise_operation",
    "read_unacknowledged_nodes",
    "remove_operations",
    "select_registrations",
    "unacknowledged_nodes",
]

_log: Final = logging.getLogger("credmesh.auth.barriers")

_MAX_REPORTED_KEYS: Final = 1000
_reported_keys: Final[set[str]] = set()


def raise_operation(layout: Layout, barrier_id: str, purpose: str, *, lease: int = 0) -> Put:
    """The operation that raises a barrier. The same commit must put the beacon."""
    barrier = mesh_pb2.Barrier(format=FORMAT, purpose=purpose)
    return Put(layout.barrier(barrier_id), barrier.SerializeToString(), lease)


def remove_operations(layout: Layout, barrier_id: str) -> tuple[Delete, Delete]:
    """The operations that remove a barrier and its acknowledgements. The same commit must put the beacon."""
    return Delete(layout.barrier(barrier_id)), Delete(acks_directory(layout, barrier_id), prefix=True)


def read_unacknowledged_nodes(etcd: EtcdClient, layout: Layout, barrier_id: str, revision: int) -> frozenset[str]:
    """Reads which registered nodes have not acknowledged a barrier. Returns their ids. Raises EtcdUnavailable.

    revision: that of the barrier

    Acknowledgements are read before the nodes. In the other order, a node that acknowledges and leaves between the two
    reads would be listed: its acknowledgement ends with its lease.
    """
    directory = acks_directory(layout, barrier_id)
    entries = etcd.read_prefix(directory).values
    nodes = select_registrations(layout, etcd.read_prefix(layout.nodes).values)
    acks = {layout.name(key, directory): entry.value for key, entry in entries.items()}
    return unacknowledged_nodes(nodes, acks, revision)


def select_registrations(layout: Layout, entries: Mapping[str, KeyValue]) -> dict[str, KeyValue]:
    """Selects the registrations among the entries below `nodes/`, by node id: see `is_registration`."""
    return {
        layout.name(key, layout.nodes): entry for key, entry in entries.items() if is_registration(key, entry.lease)
    }


def is_registration(key: str, lease: int) -> bool:
    """Whether a key below `nodes/` is a registration: it is under a lease. Logs each other key once."""
    if not lease and key not in _reported_keys and len(_reported_keys) < _MAX_REPORTED_KEYS:
        _reported_keys.add(key)
        _log.warning("%s is ignored: it is under no lease, so it is no node's registration; delete it", key)
    return lease != 0


def unacknowledged_nodes(nodes: Iterable[str], acks: Mapping[str, bytes], revision: int) -> frozenset[str]:
    """The ids of the nodes that have not acknowledged this revision or a later one.

    nodes  ids of the registered nodes
    acks   the acknowledgements' records, by node id
    """
    return frozenset(node for node in nodes if _acknowledged_revision(node, acks.get(node)) < revision)


def acks_directory(layout: Layout, barrier_id: str) -> str:
    """The prefix of a barrier's acknowledgements in etcd."""
    return layout.ack(barrier_id, "")


def _acknowledged_revision(node: str, ack: bytes | None) -> int:
    """The revision that an acknowledgement names; 0 if there is none, or its record cannot be read."""
    if ack is None:
        return 0
    try:
        return parse_record(mesh_pb2.Ack, ack).revision
    except RecordError as error:
        _log.error("the acknowledgement of node %r is ignored: %s", node, error)
        return 0
