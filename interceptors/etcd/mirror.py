"""Mirrors everything below a prefix: reads it at revision R, then watches it from R+1.

After a disconnect the mirror resumes where it stopped; after a compaction it reads the prefix again. Before it resumes
it checks that etcd still has the history that the mirror has seen. An etcd that was restored from a backup has not.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from interceptors.backoff import Backoff
from interceptors.etcd.client import Compacted, EtcdClient, EtcdRefused, EtcdUnavailable, RevisionNotReached, Snapshot
from interceptors.etcd.watch import Event, Watch
from interceptors.settings import EtcdSettings

__all__ = ["Event", "Mirror", "RereadRequired", "change_notifier"]

_log: Final = logging.getLogger("credmesh.etcd")

_FIRST_BACKOFF_SECONDS: Final = 0.05
_LONGEST_BACKOFF_SECONDS: Final = 2.0
_STOP_TIMEOUT_SECONDS: Final = 10.0


class RereadRequired(Exception):
    """A callback raises this to make the mirror read the prefix again without logging an error."""


@dataclass(frozen=True, slots=True)
class _Position:
    """How far the mirror is, and the key by which it recognizes etcd's history: the one that was written last.

    key           a key that was read or watched; the prefix itself if none was
    mod_revision  when the key was last written; 0 if it did not exist at `revision`
    value         what the key held then. Another history may have written the key at the same revision
    """

    revision: int
    cluster_id: int
    key: str
    mod_revision: int
    value: bytes | None


class Mirror:
    """Follows a prefix in one daemon thread, in which the callbacks run.

    on_snapshot(snapshot)        everything below the prefix, which replaces what came before: at first, and whenever
                                 the watch cannot be resumed
    on_events(events, revision)  the changes since, in the order of the commits and in whole revisions. Everything that
                                 was committed below the prefix up to `revision` is then known
    before_read()                the prefix is about to be read
    on_other_history(reason)     etcd lacks the history that was seen here; the prefix is read again next

    After an exception in a callback the mirror logs it and reads the prefix again. Callbacks must not call stop().
    """

    def __init__(
        self,
        settings: EtcdSettings,
        prefix: str,
        *,
        on_snapshot: Callable[[Snapshot], None],
        on_events: Callable[[Sequence[Event], int], None],
        name: str,
        before_read: Callable[[], None] = lambda: None,
        on_other_history: Callable[[str], None] = lambda _reason: None,
    ) -> None:
        self._client = EtcdClient(settings)
        self._where = ", ".join(settings.endpoints)
        self._prefix = prefix
        self._on_snapshot = on_snapshot
        self._on_events = on_events
        self._before_read = before_read
        self._on_other_history = on_other_history
        self._name = name
        self._thread = threading.Thread(target=self._run, name=f"etcd-mirror-{name}", daemon=True)
        self._stopped = threading.Event()
        self._ready = threading.Event()
        self._watch: Watch | None = None
        self._position: _Position | None = None
        self._failing = False  # whether the log says that etcd does not answer
        self._watch_count = 0

    def start(self) -> None:
        """Starts the thread. Does not wait for etcd: see wait_ready()."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread; no callback runs afterwards."""
        self._stopped.set()
        self._client.close()
        if self._thread.ident is not None:
            self._thread.join(_STOP_TIMEOUT_SECONDS)

    def wait_ready(self, timeout: float | None = None) -> bool:
        """Waits up to `timeout` seconds until the prefix has been read once. Returns whether it has."""
        return self._ready.wait(timeout)

    def reconnect(self) -> None:
        """Replaces the watch by another that continues where it stopped, at another endpoint if there is one.

        For callers that know of commits that the watch has not brought. Harmless at any time.
        """
        watch = self._watch
        if watch is not None:
            watch.abandon()

    @property
    def connected(self) -> bool:
        """Whether the watch is open."""
        return self._watch is not None

    @property
    def reconnects(self) -> int:
        """How many watches followed the first."""
        return max(self._watch_count - 1, 0)

    def _run(self) -> None:
        backoff = Backoff(_FIRST_BACKOFF_SECONDS, _LONGEST_BACKOFF_SECONDS)
        while not self._stopped.is_set():
            watch_count = self._watch_count
            try:
                self._follow()
            except Compacted as error:
                _log.info("%s: reading all of %s again: %s", self._name, self._prefix, error)
                self._position = None
            except EtcdUnavailable as error:
                self._warn(error)
            except RereadRequired:
                self._position = None
                continue
            except Exception:  # noqa: BLE001 -- it is logged, and the mirror must go on
                # The callbacks' state may be wrong now. A new snapshot replaces it.
                _log.exception("%s: cannot process what etcd sent for %s; reading it again", self._name, self._prefix)
                self._position = None
            if self._watch_count > watch_count and self._position:
                backoff.reset()  # the watch was up before it ended, so resuming is likely to succeed at once
            self._stopped.wait(backoff.next_delay())

    def _follow(self) -> None:
        """Reads the prefix or resumes, then delivers events until the watch breaks. Raises if there is no watch."""
        position = self._position
        if position is None or not self._has_same_history(position):
            position = self._read()
        watch = self._client.watch(self._prefix, position.revision + 1)
        with watch:
            self._watch = watch
            self._watch_count += 1
            self._log_recovery()
            try:
                self._deliver_events(watch, position)
            finally:
                self._watch = None

    def _deliver_events(self, watch: Watch, position: _Position) -> None:
        while True:
            try:
                events = watch.next_events()
            except EtcdRefused:
                raise
            except EtcdUnavailable as error:
                # Members restart and connections break. Only a failure to resume is worth a warning.
                if not self._stopped.is_set():
                    _log.info("%s: the watch of %s broke, resuming: %s", self._name, self._prefix, error)
                return
            position = self._apply(events, position)

    def _read(self) -> _Position:
        self._before_read()
        snapshot = self._client.read_prefix(self._prefix)
        self._log_recovery()
        # If the callback fails, there is no position to resume from.
        self._position = None
        self._on_snapshot(snapshot)
        newest = max(snapshot.values.items(), key=lambda item: item[1].mod_revision, default=None)
        if newest is None:
            self._position = _Position(snapshot.revision, snapshot.cluster_id, self._prefix, 0, None)
        else:
            key, entry = newest
            self._position = _Position(snapshot.revision, snapshot.cluster_id, key, entry.mod_revision, entry.value)
        self._ready.set()
        return self._position

    def _apply(self, events: Sequence[Event], position: _Position) -> _Position:
        last = events[-1]
        self._position = None
        self._on_events(events, last.mod_revision)
        exists = 0 if last.value is None else last.mod_revision
        self._position = _Position(last.mod_revision, position.cluster_id, last.key, exists, last.value)
        return self._position

    def _has_same_history(self, position: _Position) -> bool:
        """Returns whether etcd has the history that the mirror has seen. Reports and logs it if not.

        Raises Compacted if the position's revision is compacted.
        """
        try:
            then = self._client.read_at(position.key, position.revision)
        except RevisionNotReached:
            self._report_other_history(f"revision {position.revision} was reached, and now is not")
            return False
        entry = then.values.get(position.key)
        found = 0 if entry is None else entry.mod_revision
        if then.cluster_id != position.cluster_id:
            self._report_other_history(f"it is cluster {then.cluster_id:x}, and was {position.cluster_id:x}")
            return False
        if found != position.mod_revision:
            self._report_other_history(f"the write of revision {position.mod_revision} is gone")
            return False
        if entry is not None and entry.value != position.value:
            self._report_other_history(f"revision {position.mod_revision} wrote something else")
            return False
        return True

    def _report_other_history(self, reason: str) -> None:
        _log.error(
            "%s: etcd at %s has another history (%s); was it restored from a backup? Reading all of %s again",
            self._name,
            self._where,
            reason,
            self._prefix,
        )
        self._on_other_history(reason)

    def _warn(self, error: EtcdUnavailable) -> None:
        if self._failing or self._stopped.is_set():
            return
        self._failing = True
        if isinstance(error, EtcdRefused):
            _log.warning("%s: %s; retrying", self._name, error)
        else:
            _log.warning("%s: %s; waiting", self._name, error)

    def _log_recovery(self) -> None:
        if self._failing:
            self._failing = False
            _log.info("%s: etcd at %s answers again", self._name, self._where)


def change_notifier(settings: EtcdSettings, prefix: str, on_change: Callable[[], None], *, name: str) -> Mirror:
    """Returns a mirror, to be started, that calls `on_change` whenever something below the prefix may have changed.

    It calls once after each read of the prefix, the first one included, and once for each batch of events.
    """

    def on_snapshot(_snapshot: Snapshot) -> None:
        on_change()

    def on_events(_events: Sequence[Event], _revision: int) -> None:
        on_change()

    return Mirror(settings, prefix, on_snapshot=on_snapshot, on_events=on_events, name=name)
