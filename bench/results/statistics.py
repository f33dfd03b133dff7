"""The statistics of the benchmark: interleaved rounds, ratios of neighbouring rounds, medians and their confidence.

The speed of a machine changes over time, so figures of different times cannot be compared. The variants of a comparison
therefore take turns in short rounds, forwards and backwards. Each round gives one ratio, of two figures that were
measured within a second or two of each other. The row's ratio is the median of these ratios.

The spread of the rounds shows how noisy the machine is. More rounds do not reduce it, but they narrow the confidence
interval of the median. So that interval decides whether a target is met.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

__all__ = [
    "MIN_ROUNDS_TO_DECIDE",
    "Row",
    "common_rounds",
    "comparison_row",
    "count_row",
    "interleave",
    "interleave_targeted",
    "median_interval",
    "missing_peer_row",
    "percentile",
    "percentiles_by_block",
    "single_row",
]

S = TypeVar("S")

_WIDE_SPREAD: Final = 0.25
_MAX_BLOCKS: Final = 8
_MIN_ROUNDS_FOR_QUARTILES: Final = 3
_CONFIDENCE: Final = 0.95

MIN_ROUNDS_TO_DECIDE: Final = 6
"""With fewer rounds, no interval contains the median with a confidence of 95 %, so no target is decided."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the report, and one object in build/bench.json.

    ours, peer  medians, in `unit`; None if it was not measured
    ratio       the median of the rounds' ratios, ours ÷ peer
    higher      whether a higher figure is better
    target      the target of the ratio or, without a peer, of our own figure; None if there is no target
    met         whether the target is met; None if there is no target, no figure, or too few rounds to decide
    rounds      the number of rounds
    spread      the distance between the quartiles of the rounds' ratios (without a peer: of our figures), as a part
                of the median; None for fewer than three rounds
    note        a remark, for example on a wide spread or on an absent peer
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
        """The row as a JSON object."""
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
    """Runs every variant once in each round: A B C, then C B A, and so on. Returns the results by round."""
    results: dict[str, list[S]] = {name: [] for name in variants}
    for number in range(rounds):
        names = list(variants) if number % 2 == 0 else list(variants)[::-1]
        for name in names:
            results[name].append(variants[name]())
            tick()
    return results


def interleave_targeted(
    variants: Mapping[str, Callable[[], S]],
    targeted: Collection[str],
    rounds: int,
    targeted_rounds: int,
    *,
    tick: Callable[[], None],
) -> dict[str, list[S]]:
    """Runs `rounds` rounds of all variants, and then more rounds of the targeted variants up to `targeted_rounds`."""
    results = interleave(variants, rounds, tick=tick)
    chosen = {name: measure for name, measure in variants.items() if name in targeted}
    for name, more in interleave(chosen, targeted_rounds - rounds, tick=tick).items():
        results[name] += more
    return results


def common_rounds(first: Sequence[S], second: Sequence[S]) -> tuple[Sequence[S], Sequence[S]]:
    """The results of the rounds in which both variants were measured, without the additional rounds of one of them."""
    rounds = min(len(first), len(second))
    return first[:rounds], second[:rounds]


def comparison_row(
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
    """The row of a comparison. `ours` and `peer` have one figure for each round, in the same order."""
    ratios = [a / b for a, b in zip(ours, peer, strict=True)]
    return _row(group, name, ours, peer, ratios, unit=unit, higher=higher, target=target, note=note)


def single_row(
    group: str,
    name: str,
    ours: Sequence[float],
    *,
    unit: str,
    higher: bool,
    target: float | None = None,
    note: str = "",
) -> Row:
    """The row of a figure without a peer."""
    return _row(group, name, ours, None, None, unit=unit, higher=higher, target=target, note=note)


def missing_peer_row(
    group: str, name: str, ours: Sequence[float], *, unit: str, higher: bool, target: float | None, note: str
) -> Row:
    """The row of a comparison whose peer could not be measured. The note says how to get the peer."""
    median = statistics.median(ours) if ours else None
    return Row(
        group=group,
        name=name,
        ours=median,
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
    """The percentile of the values by the nearest-rank method: always one of the values."""
    ranked = sorted(values)
    return ranked[max(0, math.ceil(len(ranked) * percent / 100) - 1)]


def count_row(
    group: str, name: str, ours: float, *, unit: str, higher: bool, target: float | None = None, note: str = ""
) -> Row:
    """The row of a count over the whole run. It is exact, so one round decides its target."""
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
    """The confidence interval of the median, with a confidence of at least 95 %.

    None for fewer than MIN_ROUNDS_TO_DECIDE values.

    A value lies below the true median with a probability of one half. So the number of values below it has a binomial
    distribution, whatever the distribution of the values. The interval goes from the k-th smallest to the k-th largest
    value. k is the largest number for which the probability that fewer than k values lie on one of the two sides is at
    most 5 %.
    """
    rounds, k = len(values), 0
    probability_outside = 2 / 2**rounds
    while probability_outside <= 1 - _CONFIDENCE:
        k += 1
        probability_outside += 2 * math.comb(rounds, k) / 2**rounds
    ranked = sorted(values)
    return None if k == 0 else (ranked[k - 1], ranked[-k])


def percentiles_by_block(values: Sequence[float], percent: float) -> list[float]:
    """The percentile of each of a few blocks of successive values, so that a percentile has a spread too."""
    size = max(1, len(values) // _MAX_BLOCKS)
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
    figures = ours if ratios is None else ratios
    median = statistics.median(figures)
    spread = None
    if len(figures) >= _MIN_ROUNDS_FOR_QUARTILES:
        low, _, high = statistics.quantiles(figures, n=4, method="inclusive")
        spread = (high - low) / median if median else 0.0
        if spread > _WIDE_SPREAD:
            note = _joined(note, "wide spread")
    met, undecided = _verdict(figures, target, higher=higher)
    return Row(
        group=group,
        name=name,
        ours=statistics.median(ours),
        peer=None if peer is None else statistics.median(peer),
        unit=unit,
        ratio=None if ratios is None else median,
        higher=higher,
        target=target,
        met=met,
        rounds=len(figures),
        spread=spread,
        note=_joined(note, undecided),
    )


def _verdict(values: Sequence[float], target: float | None, *, higher: bool) -> tuple[bool | None, str]:
    """Whether the median reaches the target. None, and the reason, if the values do not decide it."""
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
    """Rounded to four significant digits, which is more than repeated runs agree on."""
    return None if figure is None else float(f"{figure:.4g}")
