"""Following the signing keys: what KeyService.WatchKeys sends."""

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

__all__ = ["follow_keys"]

_LOOK_AGAIN: Final = 5.0
_BREATH: Final = 0.02
"""Seconds between two looks: thousands of nodes that acknowledge one by one are told of in one go."""


def follow_keys(
    etcd: EtcdClient,
    layout: Layout,
    ack_tracker: AckTracker,
    context: grpc.ServicerContext,
    messages: Callable[[KeySnapshot], list[keys_pb2.Key]],
) -> Iterator[keys_pb2.WatchKeysResponse]:
    """The keys now, and again whenever they or the acknowledgements of a PREPARED one change, until the call ends.

    messages: the keys as an operator sees them. Raises EtcdUnavailable.
    """
    bell = threading.Event()
    context.add_callback(bell.set)
    seen = _Seen(layout, bell.set)
    mirror = Mirror(
        etcd.settings, layout.keys, on_snapshot=seen.on_snapshot, on_events=seen.on_events, name="keys-watch"
    )
    mirror.start()
    try:
        # Before the first answer: a caller that has it may ask for a rotation, and then see all of it.
        mirror.wait_ready(_LOOK_AGAIN)
        with ack_tracker.listening(BARRIER, bell.set) as answers:
            last: keys_pb2.WatchKeysResponse | None = None
            while context.is_active():
                bell.clear()
                response = keys_pb2.WatchKeysResponse(keys=messages(read_key_snapshot(etcd, layout)))
                seen.acknowledge(response, answers)
                if response != last:
                    yield response
                    last = response
                bell.wait(_LOOK_AGAIN)
                threading.Event().wait(_BREATH)
    finally:
        mirror.stop()


class _Seen:
    """When the keys that were prepared since the watch began were first seen."""

    def __init__(self, layout: Layout, ring: Callable[[], None]) -> None:
        self._layout = layout
        self._ring = ring
        self._first: dict[str, tuple[int, float]] = {}
        self._old: frozenset[str] = frozenset()

    def on_snapshot(self, snapshot: Snapshot) -> None:
        now = time.monotonic()
        if not self._first and not self._old:
            self._old = frozenset(snapshot.values)
        for key, entry in snapshot.values.items():
            if key not in self._old:
                self._first.setdefault(key, (entry.create_revision, now))
        self._ring()

    def on_events(self, events: Sequence[Event], _revision: int) -> None:
        now = time.monotonic()
        for event in events:
            if event.value is not None and event.key not in self._old:
                self._first.setdefault(event.key, (event.mod_revision, now))
        self._ring()

    def acknowledge(self, response: keys_pb2.WatchKeysResponse, answers: AckCollector) -> None:
        """Writes into the keys who has acknowledged them."""
        prepared = [key for key in response.keys if key.state == keys_pb2.KEY_STATE_PREPARED]
        newest = max(self._first, key=lambda name: self._first[name][0], default=None)
        for key in response.keys:
            name = self._layout.key(key.kid)
            since = self._first.get(name)
            # The rotation's barrier has one name for all rotations: what came in last is about the newest key.
            if key not in prepared and name != newest:
                continue
            for node_id, answer in sorted(answers.answers.items()):
                if node_id in key.waiting_for or (since is not None and answer.revision < since[0]):
                    continue
                line = key.acknowledged.add(node_id=node_id)
                if since is not None:
                    line.after.CopyFrom(duration(answer.at - since[1]))
