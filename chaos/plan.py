"""What goes wrong and when: drawn from a seed, so that a seed that failed can be played again.

The plan of a seed is always the same: which faults, when, for how long, and whom they befall. What real processes make
of it is not: their threads run as they will. A failing seed is therefore likely, and not certain, to fail again.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from chaos.faults import KINDS, Names
from chaos.faults.kind import Choices

__all__ = ["CALM", "SETTLE", "Calm", "Plan", "Planned", "draw_plan"]

SETTLE: Final = 12.0
"""Seconds after the last fault has ended until everything must work again."""

CALM: Final = 4.0
"""Seconds for which it then must."""

_WARM_UP: Final = 2.0
_LONGEST_STORM: Final = 45.0
_GAP: Final = 1.3
_AT_ONCE: Final = 4
_TRIES: Final = 20


@dataclass(frozen=True, slots=True)
class Planned:
    """A fault that is planned: at, until are seconds since the beginning."""

    at: float
    until: float
    kind: str
    choices: Choices


@dataclass(frozen=True, slots=True)
class Calm:
    """A time without faults: when all are over, when everything must work again, and until when it must."""

    begins: float
    settled: float
    ends: float


@dataclass(frozen=True, slots=True)
class Plan:
    """What happens. `seconds` is how long it all takes."""

    seed: int
    seconds: float
    faults: tuple[Planned, ...]
    calms: tuple[Calm, ...]


def draw_plan(seed: int, seconds: float, names: Names, *, without: Collection[str] = ()) -> Plan:
    """Draws a plan: storms, each followed by a calm in which everything must recover.

    seconds: to the millisecond, so that whoever reads them from a line of text draws the same
    without: kinds of faults that are not drawn
    """
    seconds = round(seconds, 3)
    rng = random.Random(seed)  # noqa: S311 - to be repeated
    storms = max(1, round(seconds / (_LONGEST_STORM + SETTLE + CALM)))
    each = max(seconds / storms, SETTLE + CALM + 5.0)
    kinds = [kind for name, kind in KINDS.items() if name not in without]
    faults: list[Planned] = []
    calms: list[Calm] = []
    for number in range(storms):
        begins = number * each + _WARM_UP
        over = (number + 1) * each - SETTLE - CALM
        faults += _storm(rng, names, begins, over, [(kind.name, kind.weight) for kind in kinds])
        calms.append(Calm(over, over + SETTLE, over + SETTLE + CALM))
    return Plan(seed, storms * each, tuple(faults), tuple(calms))


def _storm(
    rng: random.Random, names: Names, begins: float, over: float, weights: list[tuple[str, int]]
) -> list[Planned]:
    """Faults that begin and end in between, a few at once, none of which touches what another one has."""
    faults: list[Planned] = []
    claimed: list[tuple[float, frozenset[str]]] = []  # a heap, by the ends
    at = begins
    while (at := at + rng.expovariate(1 / _GAP)) < over - 0.2:
        while claimed and claimed[0][0] <= at:
            heapq.heappop(claimed)
        if len(claimed) >= _AT_ONCE:
            continue
        taken = frozenset[str]().union(*(claims for _, claims in claimed))
        for _ in range(_TRIES):
            kind = KINDS[rng.choices([name for name, _ in weights], [weight for _, weight in weights])[0]]
            choices = kind.draw(rng, names)
            until = at + rng.uniform(*kind.lasts)
            claims = frozenset(kind.claims(choices, names))
            if until < over and not claims & taken:
                faults.append(Planned(round(at, 3), round(until, 3), kind.name, choices))
                # Compared by their ends only: a set is no good for that.
                heapq.heappush(claimed, (until + len(claimed) * 1e-9, claims))
                break
    return faults
