"""What every suite of the benchmark is: a function from a context to rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from bench.environment import BenchEnvironment
from bench.results.statistics import Row
from bench.scale import Scale

__all__ = ["Suite", "SuiteContext"]


@dataclass(frozen=True, slots=True)
class SuiteContext:
    """What a suite measures with.

    environment     a running etcd with a published key
    scale           how much to measure
    begin_progress  shows what is measured next, and its number of steps. Returns a function to call after each step
    """

    environment: BenchEnvironment
    scale: Scale
    begin_progress: Callable[[str, int], Callable[[], None]]


class Suite(Protocol):
    """A group of rows that are measured together."""

    def __call__(self, context: SuiteContext) -> list[Row]:
        """Measures. Returns the rows in the order in which they are shown."""
        ...
