"""An observer that looks into etcd, past the network that is cut, and writes down what happened there in which order.

Records are {"op": "etcd", "life": …, "revision": …, "what": …}:

    epoch    scope, gone           a scope was revoked, or its epoch has leased out
    key      kid, state, gone      a verification key
    signing  kid, gone             which key signs
    node     id, name, gone        a node is registered; name is the part that it is
    leader   id, gone              who leads rotation
    ack      id, applied           a node has acknowledged the barrier of a rotation, up to this revision
    history  id                    which history the mesh says it is in
    gap      -                     something may have been missed before this

`life` counts how often etcd was restored from a backup. The first records of a life tell what there was.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Final

from google.protobuf.message import DecodeError

from authsvc.keys.snapshot import BARRIER
from chaos.history import History
from credmesh.store.v1 import auth_pb2, mesh_pb2
from interceptors.etcd.client import Compacted, EtcdClient, EtcdUnavailable
from interceptors.keyspace import Layout
from interceptors.settings import EtcdSettings

__all__ = ["Observer"]

_PAUSE: Final = 0.1


class Observer:
    """Follows etcd in a thread of its own, life by life."""

    def __init__(self, settings: EtcdSettings, layout: Layout, history: History, life: Callable[[], int]) -> None:
        self._settings = settings
        self._layout = layout
        self._history = history
        self._life_now = life
        self._life = 0
        self._client: EtcdClient | None = None
        self._thread: threading.Thread | None = None
        self._stopped = threading.Event()

    def start(self) -> None:
        """Begins with what there is. Raises EtcdUnavailable if that cannot be read."""
        self._life = self._life_now()
        self._client = EtcdClient(self._settings)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(self._client, self._stopped), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends it; what etcd says from now on is not written down."""
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
                    position = self._read(client)
                with client.watch(self._layout.prefix, position + 1) as watch:
                    while True:
                        for event in watch.next_events():
                            self._tell(event.key, event.value, event.mod_revision)
                            position = event.mod_revision
            except Compacted:
                self._note("gap", 0)
                position = None
            except EtcdUnavailable:
                stopped.wait(_PAUSE)

    def _read(self, client: EtcdClient) -> int:
        snapshot = client.read_prefix(self._layout.prefix)
        for key, entry in sorted(snapshot.values.items(), key=lambda item: item[1].mod_revision):
            self._tell(key, entry.value, entry.mod_revision)
        return snapshot.revision

    def _tell(self, key: str, value: bytes | None, revision: int) -> None:
        layout, gone = self._layout, value is None
        try:
            if key.startswith(layout.epochs):
                self._note("epoch", revision, scope=key.removeprefix(layout.epochs), gone=gone)
            elif key.startswith(layout.keys):
                state = mesh_pb2.VerificationKey.FromString(value or b"").state
                self._note("key", revision, kid=layout.name(key, layout.keys), state=state, gone=gone)
            elif key == layout.signing:
                self._note("signing", revision, kid=mesh_pb2.Signing.FromString(value or b"").kid, gone=gone)
            elif key.startswith(layout.nodes):
                name = mesh_pb2.NodeRecord.FromString(value or b"").address
                self._note("node", revision, id=layout.name(key, layout.nodes), name=name, gone=gone)
            elif key.startswith(layout.ack(BARRIER, "")) and not gone:
                applied = mesh_pb2.Ack.FromString(value or b"").revision
                self._note("ack", revision, id=layout.name(key, layout.ack(BARRIER, "")), applied=applied)
            elif key == layout.history and not gone:
                self._note("history", revision, id=mesh_pb2.History.FromString(value or b"").history_id)
            elif key == layout.leader:
                self._note("leader", revision, id=auth_pb2.LeaderRecord.FromString(value or b"").node_id, gone=gone)
        except DecodeError:
            self._note("unreadable", revision, key=key)

    def _note(self, what: str, revision: int, **fields: Any) -> None:
        now = time.monotonic()
        if not self._stopped.is_set():
            self._history.write(
                "etcd",
                by="observer",
                asked=now,
                answered=now,
                life=self._life,
                what=what,
                revision=revision,
                **fields,
            )
