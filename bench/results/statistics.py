"""How it is measured: interleaved rounds, ratios of neighbours, medians, and an honest word about the spread.

A machine is never quiet and never equally fast: what is measured in the morning cannot be compared with the afternoon.
So everything that is compared takes turns, in short rounds, forwards and backwards; each round gives one ratio, of
figures that were taken within a second or two of each other; and the row's ratio is the median of those.

How far single rounds lie apart says how noisy the machine is, and does not change with more rounds. How well the median
is known does: so it is the median's confidence interval that decides whether a target is met.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

__all__ = [
    "FEWEST_TO_DECIDE",
    "Row",
    "absent",
    "alone",
    "by_block",
    "compare",
    "interleave",
    "median_interval",
    "percentile",
    "total",
]

S = TypeVar("S")

_WIDE: Final = 0.25
_BLOCKS: Final = 8
_FEWEST_FOR_QUARTILES: Final = 3
_CONFIDENCE: Final = 0.95

FEWEST_TO_DECIDE: Final = 6
"""Rounds: of fewer there is no interval that has the median in it with the confidence that is asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the report, and one object in build/bench.json.

    ours, peer  medians, in `unit`; None if it was not measured
    ratio       the median of the rounds' own ratios, ours ÷ peer
    higher      whether more is better
    target      what the ratio should reach or, where there is no peer, our own figure; None if nobody set one
    met         None if there is no target, nothing to hold against it, or too few rounds to know on which side of it
                the median is
    rounds      how many there were
    spread      the distance between the quartiles of the rounds' ratios (without a peer: of our figures), as a part
                of the median; None below three rounds
    note        what else has to be known
    """

    group: str
    name: str
    ours: float | None
    peer: float | None
    unit: str
    ratio: float | None
    higher: bool
    target: float | None
    met: bool | None
    rounds: int
    spread: float | None
    note: str = ""

    def as_json(self) -> dict[str, object]:
        """The object, with JSON's own types."""
        return {
            "name": self.name,
            "group": self.group,
            "ours": _rounded(self.ours),
            "peer": _rounded(self.peer),
            "unit": self.unit,
            "ratio": _rounded(self.ratio),
            "better": "higher" if self.higher else "lower",
            "target": self.target,
            "met": self.met,
            "rounds": self.rounds,
            "spread": _rounded(self.spread),
            "note": self.note,
        }


def interleave(variants: Mapping[str, Callable[[], S]], rounds: int, *, tick: Callable[[], None]) -> dict[str, list[S]]:
    """Runs every variant once per round, A B C, then C B A, and so on; what each gave, in the order of the rounds."""
    given: dict[str, list[S]] = {name: [] for name in variants}
    for number in range(rounds):
        names = list(variants) if number % 2 == 0 else list(variants)[::-1]
        for name in names:
            given[name].append(variants[name]())
            tick()
    return given


def compare(
    group: str,
    name: str,
    ours: Sequence[float],
    peer: Sequence[float],
    *,
    unit: str,
    higher: bool,
    target: float | None = None,
    note: str = "",
) -> Row:
    """The row of two figures that took turns: as many of one as of the other, neighbours at the same place."""
    ratios = [a / b for a, b in zip(ours, peer, strict=True)]
    return _row(group, name, ours, peer, ratios, unit=unit, higher=higher, target=target, note=note)


def alone(
    group: str,
    name: str,
    ours: Sequence[float],
    *,
    unit: str,
    higher: bool,
    target: float | None = None,
    note: str = "",
) -> Row:
    """The row of a figure that has no peer."""
    return _row(group, name, ours, None, None, unit=unit, higher=higher, target=target, note=note)


def absent(
    group: str, name: str, ours: Sequence[float], *, unit: str, higher: bool, target: float | None, note: str
) -> Row:
    """The row of a peer that is not here; the note says how to get it."""
    middle = statistics.median(ours) if ours else None
    return Row(
        group=group,
        name=name,
        ours=middle,
        peer=None,
        unit=unit,
        ratio=None,
        higher=higher,
        target=target,
        met=None,
        rounds=len(ours),
        spread=None,
        note=note,
    )


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that so many percent of the values do not exceed (nearest rank)."""
    ranked = sorted(values)
    return ranked[max(0, math.ceil(len(ranked) * percent / 100) - 1)]


def total(
    group: str, name: str, ours: float, *, unit: str, higher: bool, target: float | None = None, note: str = ""
) -> Row:
    """The row of what was counted over the whole run, and not sampled: no more rounds could make it another figure."""
    return Row(
        group=group,
        name=name,
        ours=ours,
        peer=None,
        unit=unit,
        ratio=None,
        higher=higher,
        target=target,
        met=_met(ours, target, higher=higher),
        rounds=1,
        spread=None,
        note=note,
    )


def median_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Where the median of all possible rounds is, with a confidence of 95 % at least.

    None below FEWEST_TO_DECIDE rounds.

    Each round lies below that median or above it, like a coin: so the number of those below is binomial, whatever the
    distribution of the figures, and the interval goes from the k-th smallest to the k-th largest, for the largest k at
    which fewer than k rounds on one side, or on the other, have a probability of 5 % together at most.
    """
    rounds, k = len(values), 0
    outside = 2 / 2**rounds
    while outside <= 1 - _CONFIDENCE:
        k += 1
        outside += 2 * math.comb(rounds, k) / 2**rounds
    ranked = sorted(values)
    return None if k == 0 else (ranked[k - 1], ranked[-k])


def by_block(values: Sequence[float], percent: float) -> list[float]:
    """A percentile of each of a few blocks of neighbours, so that it too has a spread."""
    size = max(1, len(values) // _BLOCKS)
    return [percentile(values[begin : begin + size], percent) for begin in range(0, size * (len(values) // size), size)]


def _row(
    group: str,
    name: str,
    ours: Sequence[float],
    peer: Sequence[float] | None,
    ratios: Sequence[float] | None,
    *,
    unit: str,
    higher: bool,
    target: float | None,
    note: str,
) -> Row:
    decisive = ours if ratios is None else ratios
    middle = statistics.median(decisive)
    spread = None
    if len(decisive) >= _FEWEST_FOR_QUARTILES:
        low, _, high = statistics.quantiles(decisive, n=4, method="inclusive")
        spread = (high - low) / middle if middle else 0.0
        if spread > _WIDE:
            note = _joined(note, "wide spread")
    met, doubt = _verdict(decisive, target, higher=higher)
    return Row(
        group=group,
        name=name,
        ours=statistics.median(ours),
        peer=None if peer is None else statistics.median(peer),
        unit=unit,
        ratio=None if ratios is None else middle,
        higher=higher,
        target=target,
        met=met,
        rounds=len(decisive),
        spread=spread,
        note=_joined(note, doubt),
    )


def _verdict(values: Sequence[float], target: float | None, *, higher: bool) -> tuple[bool | None, str]:
    """Whether the median reaches the target; None, and why, if these values do not tell."""
    if target is None:
        return None, ""
    interval = median_interval(values)
    if interval is None:
        return None, "too few rounds to decide"
    low, high = interval
    met = _met(low, target, higher=higher)
    if met != _met(high, target, higher=higher):
        return None, f"undecided: the median is between {low:.3g} and {high:.3g}"
    return met, ""


def _met(figure: float, target: float | None, *, higher: bool) -> bool | None:
    if target is None:
        return None
    return figure >= target if higher else figure <= target


def _joined(first: str, second: str) -> str:
    return "; ".join(filter(None, (first, second)))


def _rounded(figure: float | None) -> float | None:
    """Four significant digits: more than any machine repeats."""
    return None if figure is None else float(f"{figure:.4g}")
