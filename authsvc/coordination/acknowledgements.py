"""The ack_tracker: who is registered and who has acknowledged what, as every replica follows it in etcd.

One watch of each serves everybody on this replica who waits for nodes. While nobody waits, nodes acknowledge nothing,
and the ack_tracker costs nothing.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from authsvc.coordination import barriers
from authsvc.store.records import RecordError, parse_record
from credmesh.store.v1 import mesh_pb2
from interceptors.etcd.client import EtcdClient, EtcdUnavailable, KeyValue, Snapshot
from interceptors.etcd.mirror import Event, Mirror, ReadAnew
from interceptors.keyspace import Layout, moved_beacon
from interceptors.settings import EtcdSettings

__all__ = ["AckCollector", "AckTracker", "NodeAck", "RegisteredNode"]

_log: Final = logging.getLogger("credmesh.auth.ack_tracker")

_READY: Final = 2.0
_AGAIN: Final = 1.0
_GIVE_UP: Final = 60.0
"""Seconds after which a barrier that cannot be taken back is left to its lease."""
_AT_ONCE: Final = 100
"""Keys that are read in one transaction: etcd takes 128."""


@dataclass(frozen=True, slots=True)
class NodeAck:
    """A node's acknowledgement of a barrier.

    revision       the barrier's, as of which everything is applied there
    at             when this replica learned of it, in seconds of time.monotonic()
    streams_ended  live streams that the node ended for it
    freshness_age  seconds: how old the node's knowledge could be at most; None if it has proven nothing yet
    """

    revision: int
    at: float
    streams_ended: int = 0
    freshness_age: float | None = None


@dataclass(frozen=True, slots=True)
class RegisteredNode:
    """A registered node: its record, and the revision at which it was written. One that cannot be read is empty."""

    record: mesh_pb2.NodeRecord
    revision: int


class AckCollector:
    """Collects the answers to one barrier as they come in. Thread-safe."""

    def __init__(self, directory: str, layout: Layout, ring: Callable[[], None] | None = None) -> None:
        self._ring = ring
        self.directory: Final = directory
        self._layout = layout
        self._changed = threading.Condition()
        self._answers: dict[str, NodeAck] = {}
        self._gone: dict[str, int] = {}
        self._cancelled = False

    def has_applied(self, node_id: str, revision: int) -> bool:
        """Whether a node has acknowledged that it applied this revision."""
        with self._changed:
            answer = self._answers.get(node_id)
            return answer is not None and answer.revision >= revision

    def has_left(self, node_id: str, registered_at: int) -> bool:
        """Whether the registration ended that a node made at this revision."""
        with self._changed:
            return self._gone.get(node_id, 0) > registered_at

    @property
    def answers(self) -> Mapping[str, NodeAck]:
        """The answers so far, by node id."""
        with self._changed:
            return dict(self._answers)

    def wait(self, until: Callable[[], bool], deadline: float) -> bool:
        """Waits until the condition holds, the deadline (time.monotonic()) passes, or it is cancelled; if it holds.

        The condition is looked at whenever an answer comes in or a node goes.
        """
        with self._changed:
            while not (self._cancelled or until()):
                remaining = deadline - time.monotonic()
                if remaining <= 0 or not self._changed.wait(remaining):
                    return until()
            return until()

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits for it any more."""
        return self._cancelled

    def cancel(self) -> None:
        """Nobody waits for it any more."""
        with self._changed:
            self._cancelled = True
            self._changed.notify_all()

    def take(self, values: Mapping[str, bytes]) -> None:
        """Takes acknowledgements, by etcd key."""
        now = time.monotonic()
        with self._changed:
            for key, value in values.items():
                if not key.startswith(self.directory):
                    continue
                node_id = self._layout.name(key, self.directory)
                answer = _answer(node_id, value, now)
                known = self._answers.get(node_id)
                # The same barrier may be raised anew; of one revision the first answer counts.
                if answer is not None and (known is None or answer.revision > known.revision):
                    self._answers[node_id] = answer
            self._changed.notify_all()
        self._tell()

    def lose(self, gone: Mapping[str, int]) -> None:
        """The registrations of these nodes have ended, each at its revision: a later one of the same node goes on."""
        with self._changed:
            self._gone.update(gone)
            self._changed.notify_all()
        self._tell()

    def _tell(self) -> None:
        if self._ring is not None:
            self._ring()


class AckTracker:
    """Follows registrations and acknowledgements. One per replica; start() it, and stop() it, or use it as a context.

    etcd  what barriers are taken back with
    """

    def __init__(self, settings: EtcdSettings, etcd: EtcdClient, layout: Layout) -> None:
        self._etcd = etcd
        self._layout = layout
        self._lock = threading.Lock()
        self._waiting: set[AckCollector] = set()
        self._acks = Mirror(
            settings, layout.acks, on_snapshot=self._on_acks_read, on_events=self._on_acks, name="acknowledgements"
        )
        self._nodes = Mirror(
            settings, layout.nodes, on_snapshot=self._on_nodes_read, on_events=self._on_nodes, name="nodes"
        )
        self._registered: Mapping[str, RegisteredNode] = {}
        self._over: queue.SimpleQueue[tuple[str, float] | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._sweeper = threading.Thread(target=self._sweep, name="credmesh-barriers", daemon=True)

    def start(self) -> None:
        """Starts to follow. Does not wait for etcd."""
        self._acks.start()
        self._nodes.start()
        self._sweeper.start()

    def stop(self) -> None:
        """Stops following. Barriers that are still to be taken back are left to their leases."""
        self._stopping.set()
        self._over.put(None)
        self._acks.stop()
        self._nodes.stop()
        if self._sweeper.ident is not None:
            self._sweeper.join(timeout=10)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @contextmanager
    def waiting(self, barrier_id: str) -> Iterator[AckCollector]:
        """Collects the answers to a barrier. To be entered before the barrier is raised, so that all are timed well.

        Takes the barrier back when left, in another thread: nobody's answer has to wait for that.
        """
        self._acks.wait_ready(_READY)
        self._nodes.wait_ready(_READY)
        waiting = AckCollector(barriers.acks_of(self._layout, barrier_id), self._layout)
        with self._lock:
            self._waiting.add(waiting)
        try:
            yield waiting
        finally:
            with self._lock:
                self._waiting.discard(waiting)
            self._over.put((barrier_id, time.monotonic()))

    @contextmanager
    def listening(self, barrier_id: str, ring: Callable[[], None]) -> Iterator[AckCollector]:
        """Collects the answers to a barrier that is somebody else's. ring: called when there may be something new."""
        waiting = AckCollector(barriers.acks_of(self._layout, barrier_id), self._layout, ring)
        with self._lock:
            self._waiting.add(waiting)
        try:
            yield waiting
        finally:
            with self._lock:
                self._waiting.discard(waiting)

    @property
    def registered(self) -> Mapping[str, RegisteredNode]:
        """The registered nodes by id, as the watch has them: a few milliseconds old."""
        return self._registered

    def look(self, waiting: AckCollector, timeout: float) -> Mapping[str, RegisteredNode]:
        """The nodes that are registered now, by id. Takes the answers that are there, if the watch has fallen behind.

        Acknowledgements are read first: a node that acknowledges and leaves in between is then not waited for in vain.
        Raises EtcdUnavailable after `timeout` seconds, about.
        """
        acks = self._etcd.read_prefix(waiting.directory, timeout=timeout / 2)
        waiting.take({key: entry.value for key, entry in acks.values.items()})
        nodes = self._etcd.read_prefix(self._layout.nodes, timeout=timeout / 2)
        return self._live(nodes.values)

    def _everybody(self) -> tuple[AckCollector, ...]:
        with self._lock:
            return tuple(self._waiting)

    def _on_acks_read(self, snapshot: Snapshot) -> None:
        found = {key: entry.value for key, entry in snapshot.values.items()}
        for waiting in self._everybody():
            waiting.take(found)

    def _on_acks(self, events: Sequence[Event], _revision: int) -> None:
        found = {event.key: event.value for event in events if event.value is not None}
        if found:
            for waiting in self._everybody():
                waiting.take(found)

    def _on_nodes_read(self, snapshot: Snapshot) -> None:
        registered = self._live(snapshot.values)
        known, self._registered = self._registered, registered
        for waiting in self._everybody():
            waiting.lose(dict.fromkeys(known.keys() - registered.keys(), snapshot.revision))

    def _on_nodes(self, events: Sequence[Event], _revision: int) -> None:
        registered = dict(self._registered)
        gone: dict[str, int] = {}
        live = self._look_up([event.key for event in events if event.value is not None])
        for event in events:
            node_id = self._layout.name(event.key, self._layout.nodes)
            if event.value is not None and node_id in live:
                registered[node_id] = live[node_id]
            else:
                # Deleted by now, or written over without a lease.
                registered.pop(node_id, None)
                gone[node_id] = event.mod_revision
        self._registered = registered
        if gone:
            for waiting in self._everybody():
                waiting.lose(gone)

    def _look_up(self, keys: Sequence[str]) -> Mapping[str, RegisteredNode]:
        """The live nodes among what lies now at keys below `nodes/`: the watch does not tell of leases."""
        found: dict[str, KeyValue] = {}
        try:
            for start in range(0, len(keys), _AT_ONCE):
                found.update(self._etcd.read(*keys[start : start + _AT_ONCE]).values)
        except EtcdUnavailable as error:
            raise ReadAnew from error
        return self._live(found)

    def _live(self, entries: Mapping[str, KeyValue]) -> dict[str, RegisteredNode]:
        live = barriers.live_nodes(self._layout, entries)
        return {node_id: _registered(node_id, entry.value, entry.mod_revision) for node_id, entry in live.items()}

    def _sweep(self) -> None:
        """Takes barriers back whose answers nobody collects any more."""
        while True:
            over = self._over.get()
            if over is None or self._stopping.is_set():
                return
            barrier_id, since = over
            try:
                self._etcd.commit([], [*barriers.lowered(self._layout, barrier_id), moved_beacon(self._layout)])
            except EtcdUnavailable as error:
                if time.monotonic() < since + _GIVE_UP:
                    self._over.put(over)
                    self._stopping.wait(_AGAIN)
                else:
                    _log.info("barrier %r could not be taken back, it goes with its lease: %s", barrier_id, error)
            except Exception:  # noqa: BLE001 - logged; the next barrier has to be taken back too
                _log.exception("barrier %r could not be taken back, it goes with its lease", barrier_id)


def _answer(node_id: str, value: bytes, now: float) -> NodeAck | None:
    try:
        ack = parse_record(mesh_pb2.Ack, value)
    except RecordError as error:
        _log.error("the acknowledgement of node %r does not count: %s", node_id, error)
        return None
    if not ack.revision:
        return None
    age = ack.freshness_age.ToNanoseconds() / 1e9 if ack.HasField("freshness_age") else None
    return NodeAck(ack.revision, now, ack.streams_ended, age)


def _registered(node_id: str, value: bytes, revision: int) -> RegisteredNode:
    try:
        return RegisteredNode(parse_record(mesh_pb2.NodeRecord, value), revision)
    except RecordError as error:
        # It is waited for all the same, and known by what its key tells.
        _log.error("the record of node %r cannot be read: %s", node_id, error)
        return RegisteredNode(mesh_pb2.NodeRecord(), revision)
