"""The watermark of a replica: how far it has seen into etcd's history, in a small file that outlives it.

An etcd that is restored from a backup while everything is down tells nobody. A replica that remembers more than is
there does (see interceptors.trust.continuity). What it saw within the last moments before a crash may be missing in the
file: that makes it forget, never imagine. What it must not forget, since somebody will rely on it, is noted, and lies
on disk
before anybody hears of it.
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
    """What a replica remembers. Thread-safe; `observation` and `noted` may be read without a lock.

    path    the file; None for a replica that remembers nothing beyond its own life
    prefix  begins every key of the mesh in etcd: a watermark of another mesh in the same etcd is none of this one
    observation   how far was seen
    noted   how often something was noted
    """

    def __init__(self, path: Path | None, prefix: str) -> None:
        self._path = path
        self._prefix = prefix
        self._failing = False
        self._lock = threading.Lock()  # what is in mind
        self._writing = threading.Lock()  # the file
        self._version = 0  # of what is in mind
        self._written = 0  # that of what is on disk
        self.observed = NOTHING_OBSERVED
        self.noted = 0
        if path is None:
            _log.warning(
                "CREDMESH_MEMORY_FILE is not set: a backup of etcd that is restored while everything is stopped may go "
                "unnoticed"
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

    def remember(self, observation: Observation) -> None:
        """Keeps a observation of the same history, which has to go on from the one before."""
        with self._lock:
            version = self._keep(merge_observations(self.observed, observation))
        self._write(version)

    def note(self, beacon: Beacon) -> None:
        """Keeps that the beacon was put. Returns when that is on disk; several who note at once wait for one write."""
        with self._lock:
            self.noted += 1
            seen = replace(self.observed, revision=beacon.revision, beacon=beacon.revision, beacon_value=beacon.value)
            version = self._keep(merge_observations(self.observed, seen))
        self._write(version)

    def begin(self, observation: Observation, noted: int) -> None:
        """Replaces all by a observation of another history. Nothing, if something was noted since there were `noted`.

        That may be of either history. So who replaces looks again: then it has been read after that.
        """
        with self._lock:
            version = self._keep(observation if self.noted == noted else self.observed)
        self._write(version)

    def _keep(self, observation: Observation) -> int:
        if observation != self.observed:
            self.observed = observation
            self._version += 1
        return self._version

    def _write(self, version: int) -> None:
        """Returns when this version, or a newer one, is on disk."""
        if self._path is None:
            return
        with self._writing:
            if self._written >= version:
                return  # whoever wrote last wrote this too
            with self._lock:
                observation, version = self.observed, self._version
            try:
                self._save(self._path, observation)
            except OSError as error:
                # It goes on with what it has in mind. Without the file a loss is found by others, or by this replica
                # later.
                if not self._failing:
                    _log.error("cannot write down how far etcd was seen, %s: %s", self._path, error.strerror)
                self._failing = True
            else:
                self._failing = False
                self._written = version

    def _load(self, path: Path) -> Observation:
        try:
            found = json.loads(path.read_text())
            if found["format"] != _FORMAT:
                raise ValueError(f"format {found['format']!r}, and only {_FORMAT} is known here")
            if found["prefix"] != self._prefix:
                raise ValueError(f"it is of the mesh below {found['prefix']!r}")
            return _sight(found)
        except FileNotFoundError:
            return NOTHING_OBSERVED
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            _log.error("%s cannot be read, and is begun anew: %s", path, error)
            return NOTHING_OBSERVED

    def _save(self, path: Path, observation: Observation) -> None:
        """Writes the file as a whole, or leaves the old one. It outlives a loss of power from then on."""
        history = observation.history
        entries = {
            "format": _FORMAT,
            "prefix": self._prefix,
            "cluster_id": f"{observation.cluster_id:x}",
            "revision": observation.revision,
            "beacon": observation.beacon,
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
            os.fsync(folder)  # without it the file's name may lead to the old one after a loss of power
        finally:
            os.close(folder)


def _sight(found: dict[str, Any]) -> Observation:
    cluster_id = int(found["cluster_id"], 16)
    history, value = found["history"], found.get("beacon_value")
    return Observation(
        cluster_id=cluster_id,
        revision=int(found["revision"]),
        beacon=int(found["beacon"]),
        history=None
        if history is None
        else History(str(history["history_id"]), cluster_id, frozenset(map(str, history["ancestors"]))),
        beacon_value=None if value is None else bytes.fromhex(value),
    )
