"""The figures that the demo measures, in the form of build/demo.json."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

__all__ = ["Calls", "Figures", "Hostile", "Milliseconds", "Outage", "Revocation", "Rotation"]


@dataclass(slots=True)
class Calls:
    """All calls that had to succeed: how many succeeded, and how many were refused."""

    ok: int = 0
    refused: int = 0


@dataclass(slots=True)
class Rotation:
    """Rotations under load. `refused` counts every call during the rotations that did not end with status OK."""

    rotations: int = 0
    calls_during: int = 0
    refused: int = 0


@dataclass(slots=True)
class Milliseconds:
    """Median and maximum; None if nothing was measured."""

    p50: float | None = None
    max: float | None = None

    @classmethod
    def of(cls, values: Sequence[float]) -> Milliseconds:
        """The median and maximum of some values."""
        return cls(round(statistics.median(values), 2), round(max(values), 2)) if values else cls()


@dataclass(slots=True)
class Revocation:
    """From the commit of a revocation to the first refusal. `nodes` is the number of nodes that were called."""

    nodes: int = 0
    commit_to_refused_ms: Milliseconds = field(default_factory=Milliseconds)
    stream_ended_ms: float | None = None


@dataclass(slots=True)
class Hostile:
    """Calls with bad credentials: how many were made, and how many were accepted."""

    tried: int = 0
    accepted: int = 0


@dataclass(slots=True)
class Outage:
    """Calls of methods that are not strict that failed during an outage, and whether the mesh recovered.

    etcd_down_refused is None if ETCD_ENDPOINTS names the etcd, because the demo does not stop that one.
    """

    auth_replica_killed_refused: int | None = None
    etcd_down_refused: int | None = None
    recovered: bool = False


@dataclass(slots=True)
class Figures:
    """All figures of one demo."""

    up_seconds: float | None = None
    calls: Calls = field(default_factory=Calls)
    rotation: Rotation = field(default_factory=Rotation)
    revocation: Revocation = field(default_factory=Revocation)
    hostile: Hostile = field(default_factory=Hostile)
    outage: Outage = field(default_factory=Outage)

    def write(self, path: Path) -> None:
        """Writes the figures to a file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")
