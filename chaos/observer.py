"""An observer that logs what happens in etcd, in etcd's order. It bypasses the network that the test bed cuts.

Records are {"op": "etcd", "incarnation": …, "revision": …, "what": …}:

    epoch    scope, gone           a scope was revoked, or its epoch's lease has expired
    key      kid, state, gone      a verification key
    signing  kid, gone             the signing key
    node     id, name, gone        a node's registration; name is its part
    leader   id, gone              the leader of rotation
    ack      id, applied           a node has acknowledged the barrier of a rotation, up to this revision
    history  id                    the id of etcd's history, as the mesh's record says
    gap      -                     the observer may have missed events before this

`incarnation` counts how often etcd was restored from a backup. The first records of an incarnation are those of etcd's
contents at its beginning.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Final

from google.protobuf.message import DecodeError

from authsvc.keys.snapshot import BARRIER
from chaos.operation_log import OperationLog
from credmesh.store.v1 import auth_pb2, mesh_pb2
from interceptors.etcd.client import Compacted, EtcdClient, EtcdUnavailable
from interceptors.keyspace import Layout
from interceptors.settings import EtcdSettings

__all__ = ["Observer"]

_RETRY_PAUSE_SECONDS: Final = 0.1


class Observer:
    """Follows etcd in its own thread, one incarnation after the other."""

    def __init__(
        self, settings: EtcdSettings, layout: Layout, operation_log: OperationLog, incarnation: Callable[[], int]
    ) -> None:
        self._settings = settings
        self._layout = layout
        self._operation_log = operation_log
        self._current_incarnation = incarnation
        self._incarnation = 0
        self._client: EtcdClient | None = None
        self._thread: threading.Thread | None = None
        self._stopped = threading.Event()

    def start(self) -> None:
        """Starts the thread, which begins with etcd's contents."""
        self._incarnation = self._current_incarnation()
        self._client = EtcdClient(self._settings)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(self._client, self._stopped), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stops the thread; later events are not logged."""
        self._stopped.set()
        if self._client is not None:
            self._client.close()
        if self._thread is not None:
            self._thread.join(10)

    def _run(self, client: EtcdClient, stopped: threading.Event) -> None:
        position: int | None = None
        while not stopped.is_set():
            try:
                if position is None:
                    position = self._log_contents(client)
                with client.watch(self._layout.prefix, position + 1) as watch:
                    while True:
                        for event in watch.next_events():
                            self._log_key(event.key, event.value, event.mod_revision)
                            position = event.mod_revision
            except Compacted:
                self._write("gap", 0)
                position = None
            except EtcdUnavailable:
                stopped.wait(_RETRY_PAUSE_SECONDS)

    def _log_contents(self, client: EtcdClient) -> int:
        snapshot = client.read_prefix(self._layout.prefix)
        for key, entry in sorted(snapshot.values.items(), key=lambda item: item[1].mod_revision):
            self._log_key(key, entry.value, entry.mod_revision)
        return snapshot.revision

    def _log_key(self, key: str, value: bytes | None, revision: int) -> None:
        layout, gone = self._layout, value is None
        try:
            if key.startswith(layout.epochs):
                self._write("epoch", revision, scope=key.removeprefix(layout.epochs), gone=gone)
            elif key.startswith(layout.keys):
                state = mesh_pb2.VerificationKey.FromString(value or b"").state
                self._write("key", revision, kid=layout.name(key, layout.keys), state=state, gone=gone)
            elif key == layout.signing:
                self._write("signing", revision, kid=mesh_pb2.Signing.FromString(value or b"").kid, gone=gone)
            elif key.startswith(layout.nodes):
                name = mesh_pb2.NodeRecord.FromString(value or b"").address
                self._write("node", revision, id=layout.name(key, layout.nodes), name=name, gone=gone)
            elif key.startswith(layout.ack(BARRIER, "")) and not gone:
                applied = mesh_pb2.Ack.FromString(value or b"").revision
                self._write("ack", revision, id=layout.name(key, layout.ack(BARRIER, "")), applied=applied)
            elif key == layout.history and not gone:
                self._write("history", revision, id=mesh_pb2.History.FromString(value or b"").history_id)
            elif key == layout.leader:
                self._write("leader", revision, id=auth_pb2.LeaderRecord.FromString(value or b"").node_id, gone=gone)
        except DecodeError:
            self._write("unreadable", revision, key=key)

    def _write(self, what: str, revision: int, **fields: Any) -> None:
        now = time.monotonic()
        if not self._stopped.is_set():
            self._operation_log.write(
                "etcd",
                by="observer",
                asked=now,
                answered=now,
                incarnation=self._incarnation,
                what=what,
                revision=revision,
                **fields,
            )
