"""The directory of sessions: every replica follows them in etcd, so that listing and counting ask nobody."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from authsvc.sessions.index import Over, SessionIndex
from credmesh.store.v1 import auth_pb2
from interceptors.errors import Reason, Refusal
from interceptors.etcd.mirror import Mirror
from interceptors.keyspace import Layout
from interceptors.settings import EtcdSettings

__all__ = ["SessionDirectory"]


class SessionDirectory:
    """Keeps a SessionIndex up with etcd. One per replica.

    clock: seconds since 1970
    """

    def __init__(self, settings: EtcdSettings, layout: Layout, *, clock: Callable[[], float] = time.time) -> None:
        self._index = SessionIndex(layout)
        self._clock = clock
        index = self._index
        # Two watches may run apart, and need not be in step: every session is held against every epoch once both are
        # here, whichever comes first.
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
        """Stops following; what is known stays."""
        for mirror in self._mirrors:
            mirror.stop()

    def wait_ready(self, timeout: float | None = None) -> bool:
        """Waits up to `timeout` seconds until all sessions were read for the first time."""
        deadline = None if timeout is None else time.monotonic() + timeout
        return all(
            mirror.wait_ready(None if deadline is None else max(0.0, deadline - time.monotonic()))
            for mirror in self._mirrors
        )

    def page(self, *, subject: str = "", after: str = "", size: int) -> tuple[list[auth_pb2.SessionRecord], bool, int]:
        """See SessionIndex.page. Refusal MESH_NOT_READY while not all sessions were read yet."""
        if not self.wait_ready(0):
            raise Refusal(Reason.MESH_NOT_READY, "the sessions were not read from etcd yet")
        return self._index.page(subject=subject, after=after, size=size, now=self._clock())

    def over(self, *, limit: int) -> list[Over]:
        """See SessionIndex.over."""
        return self._index.over(limit=limit, now=self._clock())

    def ended(self, session_ids: Iterable[str]) -> None:
        """See SessionIndex.ended."""
        self._index.ended(session_ids)

    def due_in(self) -> float | None:
        """Seconds until the next live session times out unless it is seen; None if there is none."""
        deadline = self._index.next_deadline()
        return None if deadline is None else deadline - self._clock()
