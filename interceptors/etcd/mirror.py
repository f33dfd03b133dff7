"""Keeps up with everything below a prefix: reads it at revision R, then watches it from R+1.

After a disconnect it resumes where it stopped; after a compaction it reads anew. Before it resumes it asks whether
etcd still remembers the past that it remembers: an etcd that was restored from a backup does not.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from interceptors.etcd.client import Compacted, EtcdClient, EtcdRefused, EtcdUnavailable, Snapshot
from interceptors.etcd.watch import Event, Watch
from interceptors.settings import EtcdSettings

__all__ = ["Event", "Mirror", "ReadAnew"]

_log: Final = logging.getLogger("credmesh.etcd")

_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 2.0
_STOP_TIMEOUT: Final = 10.0


class ReadAnew(Exception):
    """A callback raises this to have the prefix read anew, and no error logged."""


@dataclass(frozen=True, slots=True)
class _Position:
    """How far the mirror is, and what proves that it is the same history: the key that was written last.

    key           any key that was read or seen; `mod_revision` is 0 if it did not exist at `revision`
    value         what it held then; in another history the key may well be written at the same revision
    """

    revision: int
    cluster_id: int
    key: str
    mod_revision: int
    value: bytes | None


class Mirror:
    """Follows a prefix in one daemon thread, in which the callbacks run.

    on_snapshot(snapshot)        everything below the prefix, to replace what was known: at first, and after a break
    on_events(events, revision)  what changed since, in the order of the commits and in whole revisions; all that was
                                 committed below the prefix up to `revision` is now known
    before_read()                the prefix is about to be read
    on_other_history(why)        etcd does not have the past that was seen here; the prefix is read anew next

    An exception in a callback is logged, and the prefix is read anew. Callbacks must not call stop().
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
        on_other_history: Callable[[str], None] = lambda _why: None,
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
        self._waiting = False  # whether the warning that etcd does not answer was logged
        self._watches = 0

    def start(self) -> None:
        """Starts to follow. Does not wait for etcd: see wait_ready()."""
        self._thread.start()

    def stop(self) -> None:
        """Stops; no callback runs afterwards."""
        self._stopped.set()
        self._client.close()
        if self._thread.ident is not None:
            self._thread.join(_STOP_TIMEOUT)

    def wait_ready(self, timeout: float | None = None) -> bool:
        """Waits up to `timeout` seconds until the prefix was read for the first time; False if it was not."""
        return self._ready.wait(timeout)

    def reconnect(self) -> None:
        """Gives up the watch and takes up another where this one stopped, at another endpoint if there is one.

        For who learns by other means that there is more than the watch has brought. Harmless at any time.
        """
        watch = self._watch
        if watch is not None:
            watch.abandon()

    @property
    def connected(self) -> bool:
        """Whether the watch is up."""
        return self._watch is not None

    @property
    def reconnects(self) -> int:
        """How often a watch was taken up again after the first."""
        return max(self._watches - 1, 0)

    def _run(self) -> None:
        pause = _FIRST_PAUSE
        while not self._stopped.is_set():
            watches = self._watches
            try:
                self._follow()
            except Compacted as error:
                _log.info("%s: reading all of %s anew: %s", self._name, self._prefix, error)
                self._position = None
            except EtcdUnavailable as error:
                self._warn(error)
            except ReadAnew:
                self._position = None
                continue
            except Exception:  # noqa: BLE001 -- it is logged, and whatever it was, the mirror must go on
                # The state that the callbacks keep is in doubt now, and reading anew is what mends it.
                _log.exception("%s: cannot process what etcd sent for %s; reading it anew", self._name, self._prefix)
                self._position = None
            # A watch that was up ended: resume at once. Otherwise give etcd, and whatever is wrong, some time.
            pause = _FIRST_PAUSE if self._watches > watches and self._position else min(pause * 2, _LONGEST_PAUSE)
            self._stopped.wait(pause * random.uniform(0.5, 1.0))  # noqa: S311

    def _follow(self) -> None:
        """Reads or resumes, then passes events on until the watch breaks. Raises what kept it from getting there."""
        position = self._position
        if position is None or not self._same_history(position):
            position = self._read()
        watch = self._client.watch(self._prefix, position.revision + 1)
        with watch:
            self._watch = watch
            self._watches += 1
            self._tell_back()
            try:
                self._pass_on(watch, position)
            finally:
                self._watch = None

    def _pass_on(self, watch: Watch, position: _Position) -> None:
        while True:
            try:
                events = watch.next_events()
            except EtcdRefused:
                raise
            except EtcdUnavailable as error:
                # Members restart and connections break; it is worth a warning only if resuming fails.
                if not self._stopped.is_set():
                    _log.info("%s: the watch of %s broke, resuming: %s", self._name, self._prefix, error)
                return
            position = self._apply(events, position)

    def _read(self) -> _Position:
        self._before_read()
        snapshot = self._client.read_prefix(self._prefix)
        self._tell_back()
        # Until the callback has returned, nothing is known for certain.
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

    def _same_history(self, position: _Position) -> bool:
        """Whether etcd has the past that the mirror knows. If not, everything may be different."""
        try:
            then = self._client.read_at(position.key, position.revision)
        except Compacted as error:
            if "compacted" in str(error):
                raise
            self._log_other_history(f"revision {position.revision} was reached, and now is not")
            return False
        entry = then.values.get(position.key)
        found = 0 if entry is None else entry.mod_revision
        if then.cluster_id != position.cluster_id:
            self._log_other_history(f"it is cluster {then.cluster_id:x}, and was {position.cluster_id:x}")
            return False
        if found != position.mod_revision:
            self._log_other_history(f"what revision {position.mod_revision} wrote is not there")
            return False
        if entry is not None and entry.value != position.value:
            self._log_other_history(f"revision {position.mod_revision} wrote something else")
            return False
        return True

    def _log_other_history(self, text: str) -> None:
        _log.error(
            "%s: etcd at %s has another history (%s); was it restored from a backup? Reading all of %s anew",
            self._name,
            self._where,
            text,
            self._prefix,
        )
        self._on_other_history(text)

    def _warn(self, error: EtcdUnavailable) -> None:
        if self._waiting or self._stopped.is_set():
            return
        self._waiting = True
        if isinstance(error, EtcdRefused):
            _log.warning("%s: %s; trying again", self._name, error)
        else:
            _log.warning("%s: %s; waiting", self._name, error)

    def _tell_back(self) -> None:
        if self._waiting:
            self._waiting = False
            _log.info("%s: etcd at %s answers again", self._name, self._where)
