"""The index of sessions: the live ones, in order, and those to end. In memory; the directory feeds it from etcd.

A session is live while it has a record, has not timed out, and none of its scopes was revoked since its epoch. A
session that has a record and is not live is set aside for authsvc.sessions.expiry, which ends it.
"""

from __future__ import annotations

import bisect
import heapq
import logging
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from authsvc.store.timestamps import seconds
from credmesh.store.v1 import auth_pb2
from interceptors.etcd.client import Snapshot
from interceptors.etcd.mirror import Event
from interceptors.keyspace import Layout
from interceptors.scopes import (
    EVERYONE,
    audience_scope,
    client_scope,
    session_of_scope,
    subject_of_scope,
    subject_scope,
)
from interceptors.stored_records import RecordError, parse_record
from interceptors.trust.epochs import Epochs

__all__ = ["SessionIndex", "SessionToEnd"]

_log: Final = logging.getLogger("credmesh.auth.sessions")

_REBUILD_ABOVE: Final = 64
"""Removing an element of a sorted list moves all that follow. To remove more than this many, a new list is faster."""

_SPARE_DEADLINES: Final = 1000


@dataclass(frozen=True, slots=True)
class SessionToEnd:
    """A session that has a record and is not live any more.

    revision  that of the record. Ending the session compares it, since a refresh may just have changed the record
    revoked   whether one of its scopes was revoked: then only the record is left to delete. Otherwise the session timed
              out, and needs an epoch as well
    """

    session_id: str
    subject: str
    revision: int
    revoked: bool
    why: str


class _Entry:
    """A live session. The record is kept as bytes, since most records are never read and bytes take less memory.

    deadline  seconds since 1970: when the session times out unless it is used
    idle      whether the idle timeout is the earlier one
    scopes    its revocation scopes, without those of the session and the subject
    """

    __slots__ = ("deadline", "epoch", "idle", "revision", "scopes", "subject", "value")

    def __init__(self, record: auth_pb2.SessionRecord, value: bytes, revision: int) -> None:
        idle_at, ends_at = seconds(record.idle_expires_at), seconds(record.expires_at)
        self.subject = record.subject
        self.deadline = min(idle_at, ends_at)
        self.idle = idle_at < ends_at
        self.epoch = record.epoch
        self.scopes = (EVERYONE, client_scope(record.client_id), *map(audience_scope, record.audiences))
        self.value = value
        self.revision = revision


class SessionIndex:
    """The sessions that the directory has read from etcd. Thread-safe; time is an argument."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._lock = threading.Lock()
        self._epochs = Epochs()
        self._interned_scopes: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._clear()

    def _clear(self) -> None:
        self._live: dict[str, _Entry] = {}
        self._ids: list[str] = []
        self._ids_of_subject: dict[str, list[str]] = {}
        self._to_end: dict[str, SessionToEnd] = {}
        self._deadlines: list[tuple[float, str, int]] = []  # with the record's revision: a refresh makes it obsolete

    def load_sessions(self, snapshot: Snapshot) -> None:
        """Replaces all sessions."""
        entries = []
        for key, stored in snapshot.values.items():
            entry = self._parse(key, stored.value, stored.mod_revision)
            if entry is not None:
                entries.append((self._layout.name(key, self._layout.sessions), entry))
        with self._lock:
            self._clear()
            for session_id, entry in sorted(entries, key=lambda pair: pair[0]):
                self._live[session_id] = entry
                self._ids.append(session_id)
                self._ids_of_subject.setdefault(entry.subject, []).append(session_id)
            self._rebuild_deadlines()
            self._set_aside_revoked(list(self._live))

    def apply_sessions(self, events: Sequence[Event]) -> None:
        """Applies changes of sessions' records, in the order of their commits."""
        with self._lock:
            removed: list[str] = []
            for event in {event.key: event for event in events}.values():  # the last event of each key
                session_id = self._layout.name(event.key, self._layout.sessions)
                known = self._live.get(session_id)
                if known is not None and event.value is not None and event.mod_revision <= known.revision:
                    continue  # `record_commit` was faster than the watch
                self._to_end.pop(session_id, None)
                entry = None
                if event.value is not None:
                    entry = self._parse(event.key, event.value, event.mod_revision)
                if entry is not None:
                    self._put(session_id, entry)
                    self._set_aside_revoked([session_id])
                elif known is not None:
                    removed.append(session_id)
            self._remove(removed)

    def record_commit(self, record: auth_pb2.SessionRecord, value: bytes, revision: int) -> None:
        """Records a change that this replica has committed, before the watch brings it. value: the record's bytes.

        Only for a session that is live here: a session that the index does not know may have ended meanwhile.
        """
        entry = _Entry(record, value, revision)
        with self._lock:
            known = self._live.get(record.session_id)
            if known is None or known.revision >= revision:
                return
            entry.scopes = self._interned(entry.scopes)
            self._put(record.session_id, entry)
            self._set_aside_revoked([record.session_id])

    def load_epochs(self, snapshot: Snapshot) -> None:
        """Replaces all epochs."""
        epochs = (
            (key.removeprefix(self._layout.epochs), stored.mod_revision) for key, stored in snapshot.values.items()
        )
        with self._lock:
            # A revoked session has no record, so the many epochs of sessions apply to no session here.
            self._epochs = Epochs((scope, revision) for scope, revision in epochs if session_of_scope(scope) is None)
            self._set_aside_revoked(list(self._live))

    def apply_epochs(self, events: Sequence[Event]) -> None:
        """Applies revocations of scopes, and the expiry of epochs."""
        with self._lock:
            for event in events:
                scope = event.key.removeprefix(self._layout.epochs)
                if session_of_scope(scope) is not None:
                    continue
                if event.value is None:
                    self._epochs.drop(scope)
                    continue
                self._epochs.put(scope, event.mod_revision)
                self._set_aside_revoked(self._ids_in_scope(scope))

    def find(self, session_id: str) -> tuple[bytes, int] | None:
        """The record of a live session and the record's revision; None if no such session is known."""
        with self._lock:
            entry = self._live.get(session_id)
            return None if entry is None else (entry.value, entry.revision)

    def page(
        self, *, subject: str = "", after: str = "", size: int, now: float
    ) -> tuple[list[auth_pb2.SessionRecord], bool, int]:
        """Returns live sessions in the order of their ids, at most `size` of those whose id is greater than `after`.

        subject: only the sessions of this subject; "" for all.

        Also returns whether there are more sessions after these, and how many there are in total.
        """
        with self._lock:
            self._set_aside_timed_out(now)
            ids = self._ids_of_subject.get(subject, []) if subject else self._ids
            start = bisect.bisect_right(ids, after)
            values = [self._live[session_id].value for session_id in ids[start : start + size]]
            more, total = len(ids) > start + size, len(ids)
        return [auth_pb2.SessionRecord.FromString(value) for value in values], more, total

    def sessions_to_end(self, *, limit: int, now: float) -> list[SessionToEnd]:
        """The sessions that have a record and are not live any more, at most `limit`."""
        with self._lock:
            self._set_aside_timed_out(now)
            return [session for session, _ in zip(self._to_end.values(), range(limit), strict=False)]

    def mark_ended(self, session_ids: Iterable[str]) -> None:
        """Removes sessions that were ended from those to end. The watch may bring their deletion later."""
        with self._lock:
            for session_id in session_ids:
                self._to_end.pop(session_id, None)

    def next_deadline(self) -> float | None:
        """When the next live session times out unless it is used, in seconds since 1970."""
        with self._lock:
            return self._deadlines[0][0] if self._deadlines else None

    def _parse(self, key: str, value: bytes, revision: int) -> _Entry | None:
        try:
            entry = _Entry(parse_record(auth_pb2.SessionRecord, value), value, revision)
        except RecordError as error:
            _log.error("skipped %s: %s", key, error)
            return None
        entry.scopes = self._interned(entry.scopes)
        return entry

    def _interned(self, scopes: tuple[str, ...]) -> tuple[str, ...]:
        # Most sessions share their client and audiences with many others, so equal tuples are stored once.
        return self._interned_scopes.setdefault(scopes, scopes)

    def _put(self, session_id: str, entry: _Entry) -> None:
        known = self._live.get(session_id)
        if known is not None and known.subject != entry.subject:
            self._remove([session_id])
            known = None
        if known is None:
            bisect.insort(self._ids, session_id)
            bisect.insort(self._ids_of_subject.setdefault(entry.subject, []), session_id)
        self._live[session_id] = entry
        heapq.heappush(self._deadlines, (entry.deadline, session_id, entry.revision))
        if len(self._deadlines) > 2 * len(self._live) + _SPARE_DEADLINES:
            self._rebuild_deadlines()  # each refresh leaves an obsolete deadline behind

    def _rebuild_deadlines(self) -> None:
        self._deadlines = [(entry.deadline, session_id, entry.revision) for session_id, entry in self._live.items()]
        heapq.heapify(self._deadlines)

    def _remove(self, session_ids: Sequence[str]) -> None:
        """Removes sessions from the live ones."""
        removed = set(session_ids)
        subjects = {self._live.pop(session_id).subject for session_id in removed}
        if len(removed) > _REBUILD_ABOVE:
            self._ids = [session_id for session_id in self._ids if session_id not in removed]
        else:
            for session_id in removed:
                del self._ids[bisect.bisect_left(self._ids, session_id)]
        for subject in subjects:
            remaining = [session_id for session_id in self._ids_of_subject[subject] if session_id not in removed]
            if remaining:
                self._ids_of_subject[subject] = remaining
            else:
                del self._ids_of_subject[subject]

    def _ids_in_scope(self, scope: str) -> list[str]:
        """The ids of the live sessions that belong to a scope, which is not a session's."""
        subject = subject_of_scope(scope)
        if subject is not None:
            return list(self._ids_of_subject.get(subject, ()))
        return [session_id for session_id, entry in self._live.items() if scope in entry.scopes]

    def _set_aside_revoked(self, session_ids: Sequence[str]) -> None:
        """Sets those of these live sessions aside of which a scope was revoked since their epoch."""
        revoked = []
        for session_id in session_ids:
            entry = self._live[session_id]
            scope = self._epochs.find_revoked_scope((subject_scope(entry.subject), *entry.scopes), entry.epoch)
            if scope is not None:
                why = f"scope {scope} was revoked"
                revoked.append(SessionToEnd(session_id, entry.subject, entry.revision, revoked=True, why=why))
        self._set_aside(revoked)

    def _set_aside_timed_out(self, now: float) -> None:
        """Sets the live sessions aside whose deadline has passed."""
        timed_out = []
        while self._deadlines and self._deadlines[0][0] <= now:
            _, session_id, revision = heapq.heappop(self._deadlines)
            entry = self._live.get(session_id)
            if entry is not None and entry.revision == revision:
                why = "the session was idle for too long" if entry.idle else "the session's lifetime is over"
                timed_out.append(SessionToEnd(session_id, entry.subject, revision, revoked=False, why=why))
        self._set_aside(timed_out)

    def _set_aside(self, sessions: Sequence[SessionToEnd]) -> None:
        if sessions:
            self._to_end.update((session.session_id, session) for session in sessions)
            self._remove([session.session_id for session in sessions])
