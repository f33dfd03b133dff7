"""Ends sessions that timed out or were revoked by another scope: a job of the leader.

A session ends without a request for it. The epoch of a session that timed out ends its tokens and open streams on every
node, as a revocation does. A session that was revoked by another scope has that scope's epoch already, so only its
record is deleted.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Final, TypeVar

from authsvc.audit import audit
from authsvc.revocation.revoker import Revoker
from authsvc.sessions.directory import SessionDirectory
from authsvc.sessions.index import SessionToEnd
from interceptors.etcd.client import CreatedAt, Delete, EtcdClient, Unchanged
from interceptors.keyspace import Layout
from interceptors.scopes import session_scope

__all__ = ["SessionExpiry"]

T = TypeVar("T")

_MAX_SESSIONS_PER_COMMIT: Final = 50  # two operations and one condition for each, and etcd takes 128
_MAX_COMMITS_PER_STEP: Final = 20
_MIN_STEP_INTERVAL_SECONDS: Final = 0.05
_MAX_STEP_INTERVAL_SECONDS: Final = 1.0
_ACTOR: Final = "expiry"
_REASON: Final = "timed out"


class SessionExpiry:
    """Ends the sessions that the directory has set aside."""

    def __init__(self, *, etcd: EtcdClient, layout: Layout, directory: SessionDirectory, revocation: Revoker) -> None:
        self._etcd = etcd
        self._layout = layout
        self._directory = directory
        self._revocation = revocation

    def step(self, fence: CreatedAt) -> float:
        """Ends a bounded number of sessions. Returns the seconds until it wants to be called again.

        fence: a condition of every commit, so that a deposed leader ends no session. Raises EtcdUnavailable.
        """
        limit = _MAX_SESSIONS_PER_COMMIT * _MAX_COMMITS_PER_STEP
        sessions = self._directory.sessions_to_end(limit=limit)
        progress = False
        for revoked in (True, False):
            of_kind = [session for session in sessions if session.revoked is revoked]
            for batch in _batches(of_kind, _MAX_SESSIONS_PER_COMMIT):
                # A session that was just refreshed makes the commit of its batch fail. Then each is ended by itself.
                if self._end(batch, fence):
                    progress = True
                elif len(batch) > 1:
                    progress = sum(self._end([session], fence) for session in batch) > 0 or progress
        if progress and len(sessions) == limit:
            return _MIN_STEP_INTERVAL_SECONDS
        timeout = self._directory.seconds_to_next_timeout()
        if timeout is None:
            return _MAX_STEP_INTERVAL_SECONDS
        return min(max(timeout, _MIN_STEP_INTERVAL_SECONDS), _MAX_STEP_INTERVAL_SECONDS)

    def _end(self, batch: Sequence[SessionToEnd], fence: CreatedAt) -> bool:
        """Ends all of these in one commit, or none if one of them or the leader has changed. Returns whether it did."""
        keys = [self._layout.session(session.session_id) for session in batch]
        conditions: list[CreatedAt | Unchanged] = [
            fence,
            *(Unchanged(key, session.revision) for key, session in zip(keys, batch, strict=True)),
        ]
        if batch[0].revoked:
            revision = self._etcd.commit(conditions, [Delete(key) for key in keys])
        else:
            revision = self._revocation.revoke_all(
                [session_scope(session.session_id) for session in batch],
                actor=_ACTOR,
                reason=_REASON,
                extra_conditions=conditions,
            )
        if revision is None:
            return False
        self._directory.mark_ended(session.session_id for session in batch)
        for session in batch:
            if session.revoked:
                continue  # the audit trail has the revocation already, and once is enough
            audit(
                "session.end",
                subject=session.subject,
                session_id=session.session_id,
                reason=session.why,
                revision=revision,
            )
        return True


def _batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return itertools.takewhile(bool, (items[start : start + size] for start in itertools.count(0, size)))
