"""What the story measures, as build/demo.json holds it."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

__all__ = ["Calls", "Figures", "Hostile", "Milliseconds", "Outage", "Revocation", "Rotation"]


@dataclass(slots=True)
class Calls:
    """Every call of the story that should have been served: how many were, and how many were not."""

    ok: int = 0
    refused: int = 0


@dataclass(slots=True)
class Rotation:
    """Rotations under load. `refused` counts every call meanwhile that did not end in OK, whatever the reason."""

    rotations: int = 0
    calls_during: int = 0
    refused: int = 0


@dataclass(slots=True)
class Milliseconds:
    """A distribution; None before anything was measured."""

    p50: float | None = None
    max: float | None = None

    @classmethod
    def of(cls, values: Sequence[float]) -> Milliseconds:
        """The distribution of some values."""
        return cls(round(statistics.median(values), 2), round(max(values), 2)) if values else cls()


@dataclass(slots=True)
class Revocation:
    """From the commit of a revocation until the callers noticed. `nodes`: how many nodes were asked all the time."""

    nodes: int = 0
    commit_to_refused_ms: Milliseconds = field(default_factory=Milliseconds)
    stream_ended_ms: float | None = None


@dataclass(slots=True)
class Hostile:
    """Bad credentials: how many were tried, and how many were not refused with the reason that they deserve."""

    tried: int = 0
    accepted: int = 0


@dataclass(slots=True)
class Outage:
    """Calls of ordinary methods that failed meanwhile, and whether all was well again afterwards.

    etcd_down_refused is None where etcd is not ours to stop.
    """

    auth_replica_killed_refused: int | None = None
    etcd_down_refused: int | None = None
    recovered: bool = False


@dataclass(slots=True)
class Figures:
    """All of it."""

    up_seconds: float | None = None
    calls: Calls = field(default_factory=Calls)
    rotation: Rotation = field(default_factory=Rotation)
    revocation: Revocation = field(default_factory=Revocation)
    hostile: Hostile = field(default_factory=Hostile)
    outage: Outage = field(default_factory=Outage)

    def write(self, path: Path) -> None:
        """Writes the report."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")
