"""A mirror's owner for tests: it records the state below a prefix, and the snapshots and events that made it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from interceptors.etcd.channels import open_endpoints
from interceptors.etcd.client import Snapshot
from interceptors.etcd.compat import import_etcdrpc
from interceptors.etcd.mirror import Event, Mirror
from interceptors.settings import EtcdSettings


class Follower:
    """Applies the snapshots and events of a mirror.

    gate   while it is cleared, `on_events` waits, as a slow owner's callback would
    check  called with the values after each callback, in the mirror's thread; `failures` has what it raised
    """

    def __init__(self, settings: EtcdSettings, check: Callable[[dict[str, bytes]], None] | None = None) -> None:
        self.prefix = settings.prefix
        self.values: dict[str, bytes] = {}
        self.revision = 0
        self.snapshots: list[Snapshot] = []
        self.events: list[Event] = []
        self.failures: list[BaseException] = []
        self.gate = threading.Event()
        self.gate.set()
        self.waits = threading.Event()
        self._check = check
        self.mirror = Mirror(
            settings, settings.prefix, on_snapshot=self._on_snapshot, on_events=self._on_events, name="test"
        )

    def _on_snapshot(self, snapshot: Snapshot) -> None:
        self.snapshots.append(snapshot)
        self.values = {key: value.value for key, value in snapshot.values.items()}
        self._applied(snapshot.revision)

    def _on_events(self, events: Sequence[Event], revision: int) -> None:
        if not self.gate.is_set():
            self.waits.set()
            self.gate.wait()
        values = dict(self.values)
        for event in events:
            if event.value is None:
                values.pop(event.key, None)
            else:
                values[event.key] = event.value
        self.events += events
        self.values = values
        self._applied(revision)

    def _applied(self, revision: int) -> None:
        self.revision = revision
        if self._check is not None:
            try:
                self._check(self.values)
            except BaseException as error:
                self.failures.append(error)
                raise


@contextmanager
def following(settings: EtcdSettings, check: Callable[[dict[str, bytes]], None] | None = None) -> Iterator[Follower]:
    """Yields a follower whose mirror runs."""
    follower = Follower(settings, check)
    follower.mirror.start()
    try:
        yield follower
    finally:
        follower.gate.set()
        follower.mirror.stop()


def compact(settings: EtcdSettings, revision: int) -> None:
    """Compacts etcd: all revisions before this one are removed."""
    rpc = import_etcdrpc()
    endpoint = open_endpoints(settings)[0]
    try:
        endpoint.kv.Compact(rpc.CompactionRequest(revision=revision, physical=True), timeout=10)
    finally:
        endpoint.channel.close()
