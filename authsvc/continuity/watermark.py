"""The watermark of a replica: how far it has observed etcd's history, kept in a small file that survives a restart.

If etcd is restored from a backup while every process is down, nothing in etcd tells. A replica whose watermark lies
beyond the restored etcd finds the loss (see interceptors.trust.continuity). A crash can lose the newest observations.
It cannot add one. A commit that a receipt rests on must not be lost: `record_commit` returns after it is on disk.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from interceptors.errors import SettingsError
from interceptors.trust.continuity import NOTHING_OBSERVED, Beacon, History, Observation, merge_observations

__all__ = ["Watermark"]

_log: Final = logging.getLogger("credmesh.auth.history")

_FORMAT: Final = 1


class Watermark:
    """How far a replica has observed etcd. Thread-safe; the attributes may be read without a lock.

    path              the file; None for a replica that forgets everything when it ends
    prefix            of the mesh's keys in etcd: the watermark of another mesh on the same etcd is ignored
    observed          the newest observation
    commits_recorded  how often `record_commit` was called
    """

    def __init__(self, path: Path | None, prefix: str) -> None:
        self._path = path
        self._prefix = prefix
        self._write_failing = False
        self._lock = threading.Lock()  # guards the attributes
        self._file_lock = threading.Lock()
        self._version = 0  # of `observed`
        self._written_version = 0  # of what the file holds
        self.observed = NOTHING_OBSERVED
        self.commits_recorded = 0
        if path is None:
            _log.warning(
                "CREDMESH_MEMORY_FILE is not set: if etcd is restored from a backup while every process is stopped, "
                "the loss may go unnoticed; set it to a file that survives a restart"
            )
        else:
            self.observed = self._load(path)
            try:
                self._save(path, self.observed)
            except OSError as error:
                raise SettingsError(
                    f"CREDMESH_MEMORY_FILE={path} cannot be written: {error.strerror}; "
                    "for example: CREDMESH_MEMORY_FILE=/var/lib/credmesh/watermark.json"
                ) from error

    def advance(self, observation: Observation) -> None:
        """Adds an observation of the same history. It must have been compared with `observed` before."""
        with self._lock:
            version = self._set_observed(merge_observations(self.observed, observation))
        self._write(version)

    def record_commit(self, beacon: Beacon) -> None:
        """Adds a commit, by the beacon that it put. Returns when the file holds it.

        Threads that call this at the same time share one write.
        """
        with self._lock:
            self.commits_recorded += 1
            observed = replace(
                self.observed, revision=beacon.revision, beacon_revision=beacon.revision, beacon_value=beacon.value
            )
            version = self._set_observed(merge_observations(self.observed, observed))
        self._write(version)

    def begin_history(self, observation: Observation, commits_recorded: int) -> None:
        """Replaces everything by an observation of another history.

        commits_recorded: as it was before etcd was read. If a commit was recorded since, nothing is replaced, because
        that commit may belong to either history. The caller's next check reads etcd after the commit, and knows.
        """
        with self._lock:
            version = self._set_observed(observation if self.commits_recorded == commits_recorded else self.observed)
        self._write(version)

    def _set_observed(self, observation: Observation) -> int:
        """Sets `observed` and returns its version. The caller holds the lock."""
        if observation != self.observed:
            self.observed = observation
            self._version += 1
        return self._version

    def _write(self, version: int) -> None:
        """Returns when the file holds this version or a newer one, or could not be written."""
        if self._path is None:
            return
        with self._file_lock:
            if self._written_version >= version:
                return  # the write of another thread included this version
            with self._lock:
                observation, version = self.observed, self._version
            try:
                self._save(self._path, observation)
            except OSError as error:
                # The replica goes on with what it holds in memory. Nodes and other replicas can still find a loss.
                if not self._write_failing:
                    _log.error(
                        "cannot write the watermark to %s: %s; until it can be written, a restart of this replica "
                        "forgets what it has observed of etcd since",
                        self._path,
                        error.strerror,
                    )
                self._write_failing = True
            else:
                self._write_failing = False
                self._written_version = version

    def _load(self, path: Path) -> Observation:
        try:
            entries = json.loads(path.read_text())
            if entries["format"] != _FORMAT:
                raise ValueError(f"format {entries['format']!r}, and only {_FORMAT} is known here")
            if entries["prefix"] != self._prefix:
                raise ValueError(f"it belongs to the mesh below {entries['prefix']!r}")
            return _parse_observation(entries)
        except FileNotFoundError:
            return NOTHING_OBSERVED
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            _log.error("the watermark in %s cannot be used and is replaced by an empty one: %s", path, error)
            return NOTHING_OBSERVED

    def _save(self, path: Path, observation: Observation) -> None:
        """Replaces the file as a whole, or leaves the old one. After the return it survives a loss of power."""
        history = observation.history
        entries = {
            "format": _FORMAT,
            "prefix": self._prefix,
            "cluster_id": f"{observation.cluster_id:x}",
            "revision": observation.revision,
            "beacon": observation.beacon_revision,
            "beacon_value": None if observation.beacon_value is None else observation.beacon_value.hex(),
            "history": None
            if history is None
            else {"history_id": history.history_id, "ancestors": sorted(history.ancestors)},
        }
        draft = path.with_name(path.name + ".new")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(json.dumps(entries) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)  # without it the file's name may lead to the old file after a loss of power
        finally:
            os.close(folder)


def _parse_observation(entries: dict[str, Any]) -> Observation:
    cluster_id = int(entries["cluster_id"], 16)
    history, value = entries["history"], entries.get("beacon_value")
    return Observation(
        cluster_id=cluster_id,
        revision=int(entries["revision"]),
        beacon_revision=int(entries["beacon"]),
        history=None
        if history is None
        else History(str(history["history_id"]), cluster_id, frozenset(map(str, history["ancestors"]))),
        beacon_value=None if value is None else bytes.fromhex(value),
    )
