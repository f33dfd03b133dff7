"""The plan of a run: which faults happen and when, drawn from a seed, so that a failed run can be repeated.

A seed always gives the same plan: the kinds of faults, their times, and the affected parts. The threads of the real
processes are scheduled differently in each run. So a failing seed is likely to fail again, but not certain.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from chaos.faults import KINDS, Names
from chaos.faults.kind import Choices

__all__ = ["CALM_SECONDS", "SETTLE_SECONDS", "Calm", "Plan", "Planned", "draw_plan"]

SETTLE_SECONDS: Final = 12.0
"""Seconds after the last fault has ended until everything must work again."""

CALM_SECONDS: Final = 4.0
"""Seconds for which it then must."""

_WARM_UP_SECONDS: Final = 2.0
_MAX_STORM_SECONDS: Final = 45.0
_MEAN_GAP_SECONDS: Final = 1.3
_MAX_CONCURRENT_FAULTS: Final = 4
_MAX_DRAWS: Final = 20


@dataclass(frozen=True, slots=True)
class Planned:
    """A planned fault. `at` and `until` are seconds since the beginning of the run."""

    at: float
    until: float
    kind: str
    choices: Choices


@dataclass(frozen=True, slots=True)
class Calm:
    """A time without faults: when all have ended, from when everything must work again, and until when."""

    begins: float
    settled: float
    ends: float


@dataclass(frozen=True, slots=True)
class Plan:
    """The plan of a run. `seconds` is its length."""

    seed: int
    seconds: float
    faults: tuple[Planned, ...]
    calms: tuple[Calm, ...]


def draw_plan(seed: int, seconds: float, names: Names, *, without: Collection[str] = ()) -> Plan:
    """Draws a plan: times with faults, each followed by a calm in which everything must recover.

    seconds  the length; rounded to milliseconds, so that the same plan is drawn from the printed command
    without  kinds of faults that are not drawn
    """
    seconds = round(seconds, 3)
    rng = random.Random(seed)  # noqa: S311 - to be repeated
    storms = max(1, round(seconds / (_MAX_STORM_SECONDS + SETTLE_SECONDS + CALM_SECONDS)))
    each = max(seconds / storms, SETTLE_SECONDS + CALM_SECONDS + 5.0)
    kinds = [kind for name, kind in KINDS.items() if name not in without]
    faults: list[Planned] = []
    calms: list[Calm] = []
    for number in range(storms):
        begins = number * each + _WARM_UP_SECONDS
        over = (number + 1) * each - SETTLE_SECONDS - CALM_SECONDS
        faults += _draw_faults(rng, names, begins, over, [(kind.name, kind.weight) for kind in kinds])
        calms.append(Calm(over, over + SETTLE_SECONDS, over + SETTLE_SECONDS + CALM_SECONDS))
    return Plan(seed, storms * each, tuple(faults), tuple(calms))


def _draw_faults(
    rng: random.Random, names: Names, begins: float, over: float, weights: list[tuple[str, int]]
) -> list[Planned]:
    """Draws faults that begin and end in this time, a few at once, with disjoint claims."""
    faults: list[Planned] = []
    claimed: list[tuple[float, frozenset[str]]] = []  # a heap, ordered by the faults' ends
    at = begins
    while (at := at + rng.expovariate(1 / _MEAN_GAP_SECONDS)) < over - 0.2:
        while claimed and claimed[0][0] <= at:
            heapq.heappop(claimed)
        if len(claimed) >= _MAX_CONCURRENT_FAULTS:
            continue
        taken = frozenset[str]().union(*(claims for _, claims in claimed))
        for _ in range(_MAX_DRAWS):
            kind = KINDS[rng.choices([name for name, _ in weights], [weight for _, weight in weights])[0]]
            choices = kind.draw(rng, names)
            until = at + rng.uniform(*kind.lasts)
            claims = frozenset(kind.claims(choices, names))
            if until < over and not claims & taken:
                faults.append(Planned(round(at, 3), round(until, 3), kind.name, choices))
                # Makes the ends distinct, so that the heap never compares the sets.
                heapq.heappush(claimed, (until + len(claimed) * 1e-9, claims))
                break
    return faults
