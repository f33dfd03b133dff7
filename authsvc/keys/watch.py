"""Watching the signing keys: the responses of KeyService.WatchKeys."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import grpc

from authsvc.coordination.acknowledgements import AckCollector, AckTracker
from authsvc.keys.snapshot import BARRIER, KeySnapshot, read_key_snapshot
from authsvc.store.timestamps import duration
from credmesh.admin.v1 import keys_pb2
from interceptors.etcd.client import EtcdClient, Snapshot
from interceptors.etcd.mirror import Event, Mirror
from interceptors.keyspace import Layout

__all__ = ["watch_keys"]

_MAX_READ_INTERVAL_SECONDS: Final = 5.0
"""The keys are read this often without an event, in case that an event gets lost."""

_MIN_READ_INTERVAL_SECONDS: Final = 0.02
"""So one response covers the acknowledgements of many nodes, although they come in one by one."""


def watch_keys(
    etcd: EtcdClient,
    layout: Layout,
    ack_tracker: AckTracker,
    context: grpc.ServicerContext,
    messages: Callable[[KeySnapshot], list[keys_pb2.Key]],
) -> Iterator[keys_pb2.WatchKeysResponse]:
    """Yields the keys now, and again whenever a key or an acknowledgement of a PREPARED key changes.

    It ends with the call. messages: the keys in the form of the API. Raises EtcdUnavailable.
    """
    changed = threading.Event()
    context.add_callback(changed.set)
    arrivals = _KeyArrivals(layout, changed.set)
    mirror = Mirror(
        etcd.settings, layout.keys, on_snapshot=arrivals.on_snapshot, on_events=arrivals.on_events, name="keys-watch"
    )
    mirror.start()
    try:
        # The mirror must be up before the first response: the caller may rotate as soon as it has that, and must see
        # the whole rotation.
        mirror.wait_ready(_MAX_READ_INTERVAL_SECONDS)
        with ack_tracker.collect_for_existing_barrier(BARRIER, changed.set) as collector:
            last: keys_pb2.WatchKeysResponse | None = None
            while context.is_active():
                changed.clear()
                response = keys_pb2.WatchKeysResponse(keys=messages(read_key_snapshot(etcd, layout)))
                arrivals.add_acknowledgements(response, collector)
                if response != last:
                    yield response
                    last = response
                changed.wait(_MAX_READ_INTERVAL_SECONDS)
                time.sleep(_MIN_READ_INTERVAL_SECONDS)
    finally:
        mirror.stop()


class _KeyArrivals:
    """When this replica learned of each key that was prepared since the watch began."""

    def __init__(self, layout: Layout, on_change: Callable[[], None]) -> None:
        self._layout = layout
        self._on_change = on_change
        self._arrivals: dict[str, tuple[int, float]] = {}  # by etcd key: revision, time.monotonic()
        self._older_keys: frozenset[str] = frozenset()

    def on_snapshot(self, snapshot: Snapshot) -> None:
        now = time.monotonic()
        if not self._arrivals and not self._older_keys:
            self._older_keys = frozenset(snapshot.values)
        for key, entry in snapshot.values.items():
            if key not in self._older_keys:
                self._arrivals.setdefault(key, (entry.create_revision, now))
        self._on_change()

    def on_events(self, events: Sequence[Event], _revision: int) -> None:
        now = time.monotonic()
        for event in events:
            if event.value is not None and event.key not in self._older_keys:
                self._arrivals.setdefault(event.key, (event.mod_revision, now))
        self._on_change()

    def add_acknowledgements(self, response: keys_pb2.WatchKeysResponse, collector: AckCollector) -> None:
        """Adds to each PREPARED key, and to the newest key, the nodes that have acknowledged it."""
        newest = max(self._arrivals, key=lambda name: self._arrivals[name][0], default=None)
        for key in response.keys:
            name = self._layout.key(key.kid)
            # All rotations use the same barrier id, so the acknowledgements that came in last are for the newest key.
            if key.state != keys_pb2.KEY_STATE_PREPARED and name != newest:
                continue
            arrival = self._arrivals.get(name)
            for node_id, ack in sorted(collector.acks.items()):
                if node_id in key.waiting_for or (arrival is not None and ack.revision < arrival[0]):
                    continue
                line = key.acknowledged.add(node_id=node_id)
                if arrival is not None:
                    line.after.CopyFrom(duration(ack.at - arrival[1]))
