"""One run of the benchmark, as its rooms see it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from bench.results.statistics import Row
from bench.scale import Scale
from bench.world import World

__all__ = ["Room", "Run"]


@dataclass(frozen=True, slots=True)
class Run:
    """What a room measures with.

    world  a running etcd with a published key
    scale  how much to measure
    begin  says what is measured next and how many steps it has; returns what to call after each step
    """

    world: World
    scale: Scale
    begin: Callable[[str, int], Callable[[], None]]


class Room(Protocol):
    """A group of rows that are measured together."""

    def __call__(self, run: Run) -> list[Row]:
        """Measures, and gives the rows in the order in which they are read."""
        ...
