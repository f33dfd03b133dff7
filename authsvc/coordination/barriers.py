"""Barriers: waiting until every node has applied a commit.

A barrier is a record below mesh/. Every registered node acknowledges it once it has applied the barrier's revision, and
with it everything committed before or together with it. Nodes are read after the barrier is raised: one that registers
later than that reads the mesh later still, and so holds what the barrier stands for. A node lives under a lease: what
lies among the nodes without one is none, would never go, and must not be waited for as long as it lies there.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Final

from authsvc.store.records import FORMAT, RecordError, parse_record
from credmesh.store.v1 import mesh_pb2
from interceptors.etcd.client import Delete, EtcdClient, KeyValue, Put
from interceptors.keyspace import Layout

__all__ = ["acked_revision", "acks_of", "live_nodes", "lowered", "raised", "waiting_for", "waits_for"]

_log: Final = logging.getLogger("credmesh.auth.barriers")

_told: Final[set[str]] = set()
_TOLD_AT_MOST: Final = 1000


def raised(layout: Layout, barrier_id: str, purpose: str, *, lease: int = 0) -> Put:
    """The operation that raises a barrier. Its commit puts the beacon too."""
    barrier = mesh_pb2.Barrier(format=FORMAT, purpose=purpose)
    return Put(layout.barrier(barrier_id), barrier.SerializeToString(), lease)


def lowered(layout: Layout, barrier_id: str) -> tuple[Delete, Delete]:
    """The operations that remove a barrier and its acknowledgements. Their commit puts the beacon too."""
    return Delete(layout.barrier(barrier_id)), Delete(acks_of(layout, barrier_id), prefix=True)


def waits_for(etcd: EtcdClient, layout: Layout, barrier_id: str, revision: int) -> frozenset[str]:
    """The ids of the live nodes that have not acknowledged a barrier, which was raised at `revision`.

    Acknowledgements are read first: a node that acknowledges and leaves in between is then not waited for in vain.
    """
    directory = acks_of(layout, barrier_id)
    acks = etcd.read_prefix(directory).values
    nodes = live_nodes(layout, etcd.read_prefix(layout.nodes).values)
    found = {layout.name(key, directory): entry.value for key, entry in acks.items()}
    return waiting_for(nodes, found, revision)


def live_nodes(layout: Layout, entries: Mapping[str, KeyValue]) -> dict[str, KeyValue]:
    """The entries of live nodes, by node id, of those that were read below `nodes/`. Others are named in the log, once.

    A node's entry is under the node's lease. Whatever a hand put there is not, whoever's record it holds.
    """
    live = {}
    for key, entry in entries.items():
        if entry.lease:
            live[layout.name(key, layout.nodes)] = entry
        elif key not in _told and len(_told) < _TOLD_AT_MOST:
            _told.add(key)
            _log.warning("%s is no node's: it is under no lease. Nobody waits for it; delete it", key)
    return live


def waiting_for(nodes: Iterable[str], acks: Mapping[str, bytes], revision: int) -> frozenset[str]:
    """The nodes whose acknowledgement, if there is one, is not of this revision or a later one.

    nodes  ids of the registered nodes
    acks   records of acknowledgements by node id
    """
    return frozenset(node for node in nodes if acked_revision(node, acks.get(node)) < revision)


def acked_revision(node: str, ack: bytes | None) -> int:
    """The revision that a node has acknowledged; 0 for none, or for a record that cannot be read."""
    if ack is None:
        return 0
    try:
        return parse_record(mesh_pb2.Ack, ack).revision
    except RecordError as error:
        _log.error("the acknowledgement of node %r does not count: %s", node, error)
        return 0


def acks_of(layout: Layout, barrier_id: str) -> str:
    """The directory of a barrier's acknowledgements."""
    return layout.ack(barrier_id, "")
