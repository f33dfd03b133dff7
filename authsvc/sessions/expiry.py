"""Ending sessions that timed out: a job of the leader.

Nobody has to ask for a session for it to end. Its epoch ends its tokens and open streams on every node, as a revocation
would. Sessions that were revoked by another scope have their epoch already; of them only the record goes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Final, TypeVar

from authsvc.audit import audit
from authsvc.revocation.revoker import Revoker
from authsvc.sessions.directory import SessionDirectory
from authsvc.sessions.index import Over
from interceptors.etcd.client import CreatedAt, Delete, EtcdClient, Unchanged
from interceptors.keyspace import Layout
from interceptors.scopes import session_scope

__all__ = ["SessionExpiry"]

T = TypeVar("T")

_BATCH: Final = 50  # two operations and one condition each, and etcd takes 128
_BATCHES: Final = 20
_OFTEN: Final = 0.05
_SELDOM: Final = 1.0
_ACTOR: Final = "expiry"
_REASON: Final = "timed out"


class SessionExpiry:
    """Ends sessions that the directory says are over."""

    def __init__(self, *, etcd: EtcdClient, layout: Layout, directory: SessionDirectory, revocation: Revoker) -> None:
        self._etcd = etcd
        self._layout = layout
        self._directory = directory
        self._revocation = revocation

    def step(self, fence: CreatedAt) -> float:
        """Ends a bounded number of them; the seconds until it wants to be called again.

        fence: a condition of every commit, so that a leader that was deposed ends nothing. May raise EtcdUnavailable.
        """
        limit = _BATCH * _BATCHES
        over = self._directory.over(limit=limit)
        progress = False
        for kind in (True, False):
            for batch in _batches([one for one in over if one.revoked is kind], _BATCH):
                # One that was refreshed at the last moment spoils the batch, and the others go one by one.
                if self._end(batch, fence):
                    progress = True
                elif len(batch) > 1:
                    progress = sum(self._end([one], fence) for one in batch) > 0 or progress
        if progress and len(over) == limit:
            return _OFTEN
        due_in = self._directory.due_in()
        return _SELDOM if due_in is None else min(max(due_in, _OFTEN), _SELDOM)

    def _end(self, batch: Sequence[Over], fence: CreatedAt) -> bool:
        """Ends them all in one commit, or none if one of them or the leader has changed."""
        keys = [self._layout.session(one.session_id) for one in batch]
        conditions: list[CreatedAt | Unchanged] = [
            fence,
            *(Unchanged(key, one.revision) for key, one in zip(keys, batch, strict=True)),
        ]
        if batch[0].revoked:
            revision = self._etcd.commit(conditions, [Delete(key) for key in keys])
        else:
            revision = self._revocation.revoke_all(
                [session_scope(one.session_id) for one in batch],
                actor=_ACTOR,
                reason=_REASON,
                extra_conditions=conditions,
            )
        if revision is None:
            return False
        self._directory.ended(one.session_id for one in batch)
        for one in batch:
            if one.revoked:
                continue  # whoever revoked it is in the audit trail, once and not once per session
            audit("session.end", subject=one.subject, session_id=one.session_id, reason=one.why, revision=revision)
        return True


def _batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return itertools.takewhile(bool, (items[start : start + size] for start in itertools.count(0, size)))
