"""The index of sessions: the live ones in order, and those that are over. In memory; what it is told is all it knows.

A session is live while it has a record, is not timed out and no scope of it was revoked since. Those that have a record
and are not live are kept aside for authsvc.sessions.expiry, which ends them.
"""

from __future__ import annotations

import bisect
import heapq
import logging
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

from authsvc.store.records import RecordError, parse_record
from authsvc.store.timestamps import seconds
from credmesh.store.v1 import auth_pb2
from interceptors.etcd.client import Snapshot
from interceptors.etcd.mirror import Event
from interceptors.keyspace import Layout
from interceptors.scopes import EVERYONE, audience_scope, client_scope, subject_scope
from interceptors.trust.epochs import Epochs

__all__ = ["Over", "SessionIndex"]

_log: Final = logging.getLogger("credmesh.auth.sessions")

_MANY: Final = 64
_SESSION: Final = "sid/"
_SUBJECT: Final = "sub/"


@dataclass(frozen=True, slots=True)
class Over:
    """A session that has a record and cannot go on.

    revision  its record's: whoever ends it compares that, since it may have been refreshed a moment ago
    revoked   some scope of it was revoked, which is all that it takes; otherwise it timed out and lacks an epoch
    """

    session_id: str
    subject: str
    revision: int
    revoked: bool
    why: str


class _Entry:
    """A live session. The record is kept as etcd has it: most are never looked at, and bytes are small."""

    __slots__ = ("deadline", "epoch", "idle", "revision", "scopes", "subject", "value")

    # scopes: those that it shares with others; its subject's is not among them

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
    """What the directory knows. Thread-safe; time is an argument."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._lock = threading.Lock()
        self._epochs = Epochs()
        self._shared: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._clear()

    def _clear(self) -> None:
        self._live: dict[str, _Entry] = {}
        self._ids: list[str] = []
        self._of_subject: dict[str, list[str]] = {}
        self._over: dict[str, Over] = {}
        self._deadlines: list[tuple[float, str, int]] = []

    def load_sessions(self, snapshot: Snapshot) -> None:
        """Replaces all sessions."""
        entries = []
        for key, stored in snapshot.values.items():
            entry = self._read(key, stored.value, stored.mod_revision)
            if entry is not None:
                entries.append((self._layout.name(key, self._layout.sessions), entry))
        with self._lock:
            self._clear()
            for session_id, entry in sorted(entries, key=lambda one: one[0]):
                self._live[session_id] = entry
                self._ids.append(session_id)
                self._of_subject.setdefault(entry.subject, []).append(session_id)
            self._set_deadlines()
            self._check(list(self._live))

    def apply_sessions(self, events: Sequence[Event]) -> None:
        """Sessions that were begun, seen, or ended."""
        with self._lock:
            gone: list[str] = []
            for event in {event.key: event for event in events}.values():  # the last of each
                session_id = self._layout.name(event.key, self._layout.sessions)
                self._over.pop(session_id, None)
                entry = None
                if event.value is not None:
                    entry = self._read(event.key, event.value, event.mod_revision)
                if entry is not None:
                    self._put(session_id, entry)
                    self._check([session_id])
                elif session_id in self._live:
                    gone.append(session_id)
            self._drop(gone)

    def load_epochs(self, snapshot: Snapshot) -> None:
        """Replaces all epochs."""
        found = (
            (key.removeprefix(self._layout.epochs), stored.mod_revision) for key, stored in snapshot.values.items()
        )
        with self._lock:
            # A revoked session has no record: its own epoch says nothing about what is here, and there are many.
            self._epochs = Epochs((scope, revision) for scope, revision in found if not scope.startswith(_SESSION))
            self._check(list(self._live))

    def apply_epochs(self, events: Sequence[Event]) -> None:
        """Scopes that were revoked, or whose epochs have run out."""
        with self._lock:
            for event in events:
                scope = event.key.removeprefix(self._layout.epochs)
                if scope.startswith(_SESSION):
                    continue
                if event.value is None:
                    self._epochs.drop(scope)
                    continue
                self._epochs.put(scope, event.mod_revision)
                self._check(self._ids_in(scope))

    def page(
        self, *, subject: str = "", after: str = "", size: int, now: float
    ) -> tuple[list[auth_pb2.SessionRecord], bool, int]:
        """Live sessions in the order of their ids, at most `size`, from the first one after the id `after`.

        Also whether there are more after these, and how many there are in all. subject: only this one's; "" for all.
        """
        with self._lock:
            self._time_out(now)
            ids = self._of_subject.get(subject, []) if subject else self._ids
            start = bisect.bisect_right(ids, after)
            found = [self._live[session_id].value for session_id in ids[start : start + size]]
            more, total = len(ids) > start + size, len(ids)
        return [auth_pb2.SessionRecord.FromString(value) for value in found], more, total

    def over(self, *, limit: int, now: float) -> list[Over]:
        """Sessions that have a record and cannot go on, at most `limit`."""
        with self._lock:
            self._time_out(now)
            return [over for over, _ in zip(self._over.values(), range(limit), strict=False)]

    def ended(self, session_ids: Iterable[str]) -> None:
        """These were ended; the events that say so may come later."""
        with self._lock:
            for session_id in session_ids:
                self._over.pop(session_id, None)

    def next_deadline(self) -> float | None:
        """When the next live session times out unless it is seen, in seconds since 1970."""
        with self._lock:
            return self._deadlines[0][0] if self._deadlines else None

    def _read(self, key: str, value: bytes, revision: int) -> _Entry | None:
        try:
            entry = _Entry(parse_record(auth_pb2.SessionRecord, value), value, revision)
        except RecordError as error:
            _log.error("skipped %s: %s", key, error)
            return None
        # Most sessions are of the same few clients and audiences.
        entry.scopes = self._shared.setdefault(entry.scopes, entry.scopes)
        return entry

    def _put(self, session_id: str, entry: _Entry) -> None:
        known = self._live.get(session_id)
        if known is not None and known.subject != entry.subject:
            self._drop([session_id])
            known = None
        if known is None:
            bisect.insort(self._ids, session_id)
            bisect.insort(self._of_subject.setdefault(entry.subject, []), session_id)
        self._live[session_id] = entry
        heapq.heappush(self._deadlines, (entry.deadline, session_id, entry.revision))
        if len(self._deadlines) > 2 * len(self._live) + 1000:
            self._set_deadlines()  # each refresh has left an entry behind that means nothing any more

    def _set_deadlines(self) -> None:
        self._deadlines = [(entry.deadline, session_id, entry.revision) for session_id, entry in self._live.items()]
        heapq.heapify(self._deadlines)

    def _drop(self, session_ids: Sequence[str]) -> None:
        """Takes sessions out of those that are live."""
        gone = set(session_ids)
        subjects = {self._live.pop(session_id).subject for session_id in gone}
        # Taking one out of a sorted list moves all that follow: for many it is quicker to make the list anew.
        if len(gone) > _MANY:
            self._ids = [session_id for session_id in self._ids if session_id not in gone]
        else:
            for session_id in gone:
                del self._ids[bisect.bisect_left(self._ids, session_id)]
        for subject in subjects:
            left = [session_id for session_id in self._of_subject[subject] if session_id not in gone]
            if left:
                self._of_subject[subject] = left
            else:
                del self._of_subject[subject]

    def _ids_in(self, scope: str) -> list[str]:
        """The live sessions that belong to a scope."""
        if scope.startswith(_SUBJECT):
            return list(self._of_subject.get(unquote(scope.removeprefix(_SUBJECT)), ()))
        return [session_id for session_id, entry in self._live.items() if scope in entry.scopes]

    def _check(self, session_ids: Sequence[str]) -> None:
        """Puts those aside that were revoked."""
        over = []
        for session_id in session_ids:
            entry = self._live[session_id]
            scope = self._epochs.revokes((subject_scope(entry.subject), *entry.scopes), entry.epoch)
            if scope is not None:
                over.append(
                    Over(session_id, entry.subject, entry.revision, revoked=True, why=f"scope {scope} was revoked")
                )
        self._put_aside(over)

    def _time_out(self, now: float) -> None:
        """Puts those aside whose time is over."""
        over = []
        while self._deadlines and self._deadlines[0][0] <= now:
            _, session_id, revision = heapq.heappop(self._deadlines)
            entry = self._live.get(session_id)
            if entry is not None and entry.revision == revision:
                why = "the session was idle for too long" if entry.idle else "the session's lifetime is over"
                over.append(Over(session_id, entry.subject, revision, revoked=False, why=why))
        self._put_aside(over)

    def _put_aside(self, over: Sequence[Over]) -> None:
        if over:
            self._over.update((one.session_id, one) for one in over)
            self._drop([one.session_id for one in over])
