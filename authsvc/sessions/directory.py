"""The directory of sessions: follows all of them in etcd, so that listing, counting and finding need no request."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from authsvc.sessions.index import SessionIndex, SessionToEnd
from credmesh.store.v1 import auth_pb2
from interceptors.errors import Reason, Refusal
from interceptors.etcd.mirror import Mirror
from interceptors.keyspace import Layout
from interceptors.settings import EtcdSettings

__all__ = ["SessionDirectory"]


class SessionDirectory:
    """Keeps a SessionIndex up to date with etcd. One per replica.

    clock: seconds since 1970
    """

    def __init__(self, settings: EtcdSettings, layout: Layout, *, clock: Callable[[], float] = time.time) -> None:
        self._index = SessionIndex(layout)
        self._clock = clock
        index = self._index
        # The two watches need not be in step: the index compares every session with every epoch when it has both,
        # whichever comes first.
        self._mirrors = (
            Mirror(
                settings,
                layout.epochs,
                on_snapshot=index.load_epochs,
                on_events=lambda events, _revision: index.apply_epochs(events),
                name="session-epochs",
            ),
            Mirror(
                settings,
                layout.sessions,
                on_snapshot=index.load_sessions,
                on_events=lambda events, _revision: index.apply_sessions(events),
                name="sessions",
            ),
        )

    def start(self) -> None:
        """Starts to follow etcd. Does not wait for it."""
        for mirror in self._mirrors:
            mirror.start()

    def stop(self) -> None:
        """Stops following. The index stays as it is."""
        for mirror in self._mirrors:
            mirror.stop()

    def wait_ready(self, timeout: float | None = None) -> bool:
        """Waits up to `timeout` seconds until all sessions and epochs were read once. Returns whether they were."""
        deadline = None if timeout is None else time.monotonic() + timeout
        return all(
            mirror.wait_ready(None if deadline is None else max(0.0, deadline - time.monotonic()))
            for mirror in self._mirrors
        )

    def find(self, session_id: str) -> tuple[bytes, int] | None:
        """See SessionIndex.find. The record may be some milliseconds old: a commit must compare its revision."""
        return self._index.find(session_id)

    def record_commit(self, record: auth_pb2.SessionRecord, value: bytes, revision: int) -> None:
        """See SessionIndex.record_commit."""
        self._index.record_commit(record, value, revision)

    def page(self, *, subject: str = "", after: str = "", size: int) -> tuple[list[auth_pb2.SessionRecord], bool, int]:
        """See SessionIndex.page. Refusal MESH_NOT_READY before all sessions were read once."""
        if not self.wait_ready(0):
            raise Refusal(Reason.MESH_NOT_READY, "the sessions have not been read from etcd yet")
        return self._index.page(subject=subject, after=after, size=size, now=self._clock())

    def sessions_to_end(self, *, limit: int) -> list[SessionToEnd]:
        """See SessionIndex.sessions_to_end."""
        return self._index.sessions_to_end(limit=limit, now=self._clock())

    def mark_ended(self, session_ids: Iterable[str]) -> None:
        """See SessionIndex.mark_ended."""
        self._index.mark_ended(session_ids)

    def seconds_to_next_timeout(self) -> float | None:
        """Seconds until the next live session times out unless it is used; None if no session is live."""
        deadline = self._index.next_deadline()
        return None if deadline is None else deadline - self._clock()
