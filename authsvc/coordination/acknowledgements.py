"""The registered nodes and their acknowledgements, as every replica follows them in etcd.

One watch of the registrations and one of the acknowledgements serve every call on this replica that waits for nodes.
They cost little: while no barrier is raised, nodes acknowledge nothing.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from authsvc.coordination import barriers
from credmesh.store.v1 import mesh_pb2
from interceptors.etcd.client import EtcdClient, EtcdUnavailable, KeyValue, Snapshot
from interceptors.etcd.mirror import Event, Mirror
from interceptors.keyspace import Layout, beacon_update
from interceptors.settings import EtcdSettings
from interceptors.stored_records import RecordError, parse_record

__all__ = ["AckCollector", "AckTracker", "NodeAck", "RegisteredNode"]

_log: Final = logging.getLogger("credmesh.auth.ack_tracker")

_READY_TIMEOUT_SECONDS: Final = 2.0
_RETRY_INTERVAL_SECONDS: Final = 1.0
_MAX_REMOVAL_SECONDS: Final = 60.0
"""After this time a barrier that cannot be removed is left to its lease."""


@dataclass(frozen=True, slots=True)
class NodeAck:
    """A node's acknowledgement of a barrier.

    revision       the barrier's revision: the node has applied every commit up to it
    at             when this replica learned of the acknowledgement, in seconds of time.monotonic()
    streams_ended  open streams that the node ended for what was revoked at that revision
    freshness_age  the node's freshness in seconds; None if it has proven none yet
    """

    revision: int
    at: float
    streams_ended: int = 0
    freshness_age: float | None = None


@dataclass(frozen=True, slots=True)
class RegisteredNode:
    """A registered node.

    record    its registration; empty if it cannot be read
    revision  the revision that wrote the registration
    """

    record: mesh_pb2.NodeRecord
    revision: int


class AckCollector:
    """Collects the acknowledgements of one barrier as they come in. Thread-safe.

    directory  the prefix of the barrier's acknowledgements in etcd
    on_change  called after each batch of events, in the thread that brought it. A batch may not concern this barrier
    """

    def __init__(self, directory: str, layout: Layout, on_change: Callable[[], None] = lambda: None) -> None:
        self.directory: Final = directory
        self._layout = layout
        self._on_change = on_change
        self._changed = threading.Condition()
        self._acks: dict[str, NodeAck] = {}
        self._ended_registrations: dict[str, int] = {}  # by node id: the revision at which one last ended
        self._cancelled = False

    def has_applied(self, node_id: str, revision: int) -> bool:
        """Whether a node has acknowledged this revision or a later one."""
        with self._changed:
            ack = self._acks.get(node_id)
            return ack is not None and ack.revision >= revision

    def has_left(self, node_id: str, registration_revision: int) -> bool:
        """Whether the registration that a node wrote at this revision has ended."""
        with self._changed:
            return self._ended_registrations.get(node_id, 0) > registration_revision

    @property
    def acks(self) -> Mapping[str, NodeAck]:
        """The acknowledgements so far, by node id."""
        with self._changed:
            return dict(self._acks)

    def wait_until(self, condition: Callable[[], bool], deadline: float) -> bool:
        """Waits for a condition, until the deadline (time.monotonic()) or `cancel`. Returns whether it holds.

        The condition is evaluated after every change.
        """
        with self._changed:
            while not (self._cancelled or condition()):
                remaining = deadline - time.monotonic()
                if remaining <= 0 or not self._changed.wait(remaining):
                    return condition()
            return condition()

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._cancelled

    def cancel(self) -> None:
        """Cancels the wait: `wait_until` returns at once."""
        with self._changed:
            self._cancelled = True
            self._changed.notify_all()

    def record_acks(self, values: Mapping[str, bytes]) -> None:
        """Records acknowledgements, by etcd key. Those of other barriers are skipped."""
        now = time.monotonic()
        with self._changed:
            for key, value in values.items():
                if not key.startswith(self.directory):
                    continue
                node_id = self._layout.name(key, self.directory)
                ack = _parse_ack(node_id, value, now)
                known = self._acks.get(node_id)
                # A barrier can be raised again under the same id. Of one revision the first acknowledgement counts.
                if ack is not None and (known is None or ack.revision > known.revision):
                    self._acks[node_id] = ack
            self._changed.notify_all()
        self._on_change()

    def record_ended_registrations(self, ended: Mapping[str, int]) -> None:
        """Records that nodes' registrations have ended, each at its revision. A later registration is not affected."""
        with self._changed:
            self._ended_registrations.update(ended)
            self._changed.notify_all()
        self._on_change()


class AckTracker:
    """Follows registrations and acknowledgements. One per replica. `start` and `stop` it, or use it as a context.

    settings  for the two watches
    etcd      reads nodes and removes barriers
    """

    def __init__(self, settings: EtcdSettings, etcd: EtcdClient, layout: Layout) -> None:
        self._etcd = etcd
        self._layout = layout
        self._lock = threading.Lock()
        self._collectors: set[AckCollector] = set()
        self._acks = Mirror(
            settings, layout.acks, on_snapshot=self._on_acks_read, on_events=self._on_acks, name="acknowledgements"
        )
        self._nodes = Mirror(
            settings, layout.nodes, on_snapshot=self._on_nodes_read, on_events=self._on_nodes, name="nodes"
        )
        self._registered_nodes: Mapping[str, RegisteredNode] = {}
        self._finished_barriers: queue.SimpleQueue[tuple[str, float] | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._remover = threading.Thread(target=self._remove_finished_barriers, name="credmesh-barriers", daemon=True)

    def start(self) -> None:
        """Starts the watches. Does not wait for etcd."""
        self._acks.start()
        self._nodes.start()
        self._remover.start()

    def stop(self) -> None:
        """Ends the watches. Barriers that are not removed yet are left to their leases."""
        self._stopping.set()
        self._finished_barriers.put(None)
        self._acks.stop()
        self._nodes.stop()
        if self._remover.ident is not None:
            self._remover.join(timeout=10)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @contextmanager
    def collect_for_own_barrier(self, barrier_id: str) -> Iterator[AckCollector]:
        """Collects the acknowledgements of a barrier that the caller raises inside the context.

        Removes the barrier after the context, in another thread, so that no caller waits for the removal.
        """
        # The watches must be up before the barrier is raised. Otherwise NodeAck.at would be the time of a later read.
        self._acks.wait_ready(_READY_TIMEOUT_SECONDS)
        self._nodes.wait_ready(_READY_TIMEOUT_SECONDS)
        try:
            with self._collect(barrier_id) as collector:
                yield collector
        finally:
            self._finished_barriers.put((barrier_id, time.monotonic()))

    def collect_for_existing_barrier(
        self, barrier_id: str, on_change: Callable[[], None] = lambda: None
    ) -> AbstractContextManager[AckCollector]:
        """Collects the acknowledgements of a barrier that others raise and remove.

        on_change: called after each batch of events
        """
        return self._collect(barrier_id, on_change)

    @contextmanager
    def _collect(self, barrier_id: str, on_change: Callable[[], None] = lambda: None) -> Iterator[AckCollector]:
        collector = AckCollector(barriers.acks_directory(self._layout, barrier_id), self._layout, on_change)
        with self._lock:
            self._collectors.add(collector)
        try:
            yield collector
        finally:
            with self._lock:
                self._collectors.discard(collector)

    @property
    def registered_nodes(self) -> Mapping[str, RegisteredNode]:
        """The registered nodes by id, as the watch has them: usually a few milliseconds old."""
        return self._registered_nodes

    def read_acks_and_nodes(self, collector: AckCollector, timeout: float) -> Mapping[str, RegisteredNode]:
        """Reads the acknowledgements into the collector, then the registered nodes, which it returns by id.

        The reads do not depend on the watches, which may be behind. The acknowledgements come first: in the other
        order, a node that acknowledges and leaves between the reads would be waited for: its acknowledgement ends with
        its lease.
        Raises EtcdUnavailable, about `timeout` seconds later.
        """
        acks = self._etcd.read_prefix(collector.directory, timeout=timeout / 2)
        collector.record_acks({key: entry.value for key, entry in acks.values.items()})
        nodes = self._etcd.read_prefix(self._layout.nodes, timeout=timeout / 2)
        return self._parse_registrations(nodes.values)

    def _active_collectors(self) -> tuple[AckCollector, ...]:
        with self._lock:
            return tuple(self._collectors)

    def _on_acks_read(self, snapshot: Snapshot) -> None:
        acks = {key: entry.value for key, entry in snapshot.values.items()}
        for collector in self._active_collectors():
            collector.record_acks(acks)

    def _on_acks(self, events: Sequence[Event], _revision: int) -> None:
        acks = {event.key: event.value for event in events if event.value is not None}
        if acks:
            for collector in self._active_collectors():
                collector.record_acks(acks)

    def _on_nodes_read(self, snapshot: Snapshot) -> None:
        registered = self._parse_registrations(snapshot.values)
        known, self._registered_nodes = self._registered_nodes, registered
        for collector in self._active_collectors():
            collector.record_ended_registrations(dict.fromkeys(known.keys() - registered.keys(), snapshot.revision))

    def _on_nodes(self, events: Sequence[Event], _revision: int) -> None:
        registered = dict(self._registered_nodes)
        ended: dict[str, int] = {}
        for event in events:
            node_id = self._layout.name(event.key, self._layout.nodes)
            if event.value is not None and barriers.is_registration(event.key, event.lease):
                registered[node_id] = _parse_node(node_id, event.value, event.mod_revision)
            else:
                # The registration was deleted, or overwritten without a lease.
                registered.pop(node_id, None)
                ended[node_id] = event.mod_revision
        self._registered_nodes = registered
        if ended:
            for collector in self._active_collectors():
                collector.record_ended_registrations(ended)

    def _parse_registrations(self, entries: Mapping[str, KeyValue]) -> dict[str, RegisteredNode]:
        registrations = barriers.select_registrations(self._layout, entries)
        return {
            node_id: _parse_node(node_id, entry.value, entry.mod_revision) for node_id, entry in registrations.items()
        }

    def _remove_finished_barriers(self) -> None:
        """Removes barriers whose collector has ended. Runs in a thread until `stop`."""
        while True:
            finished = self._finished_barriers.get()
            if finished is None or self._stopping.is_set():
                return
            barrier_id, finished_at = finished
            operations = barriers.remove_operations(self._layout, barrier_id)
            try:
                self._etcd.commit([], [*operations, beacon_update(self._layout)])
            except EtcdUnavailable as error:
                if time.monotonic() < finished_at + _MAX_REMOVAL_SECONDS:
                    self._finished_barriers.put(finished)
                    self._stopping.wait(_RETRY_INTERVAL_SECONDS)
                else:
                    _log.info("barrier %r could not be removed, it ends with its lease: %s", barrier_id, error)
            except Exception:  # noqa: BLE001 - logged; the next barrier must be removed too
                _log.exception("barrier %r could not be removed, it ends with its lease", barrier_id)


def _parse_ack(node_id: str, value: bytes, now: float) -> NodeAck | None:
    try:
        ack = parse_record(mesh_pb2.Ack, value)
    except RecordError as error:
        _log.error("the acknowledgement of node %r is ignored: %s", node_id, error)
        return None
    if not ack.revision:
        return None
    age = ack.freshness_age.ToNanoseconds() / 1e9 if ack.HasField("freshness_age") else None
    return NodeAck(ack.revision, now, ack.streams_ended, age)


def _parse_node(node_id: str, value: bytes, revision: int) -> RegisteredNode:
    try:
        return RegisteredNode(parse_record(mesh_pb2.NodeRecord, value), revision)
    except RecordError as error:
        # The node is known by its key, and receipts wait for it.
        _log.error("the record of node %r cannot be read: %s", node_id, error)
        return RegisteredNode(mesh_pb2.NodeRecord(), revision)
