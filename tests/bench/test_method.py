"""What the benchmark makes of its figures: medians of neighbours' ratios, and no verdict where the rounds disagree."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bench.method import alone, compare, interleave, percentile


def test_variants_take_turns_forwards_and_backwards() -> None:
    order: list[str] = []

    def variant(name: str) -> Callable[[], int]:
        def measure() -> int:
            order.append(name)
            return len(order)

        return measure

    given = interleave({name: variant(name) for name in "abc"}, 2, tick=lambda: None)
    assert order == ["a", "b", "c", "c", "b", "a"]
    assert given == {"a": [1, 6], "b": [2, 5], "c": [3, 4]}


def test_a_ratio_is_the_median_of_the_rounds_own_ratios() -> None:
    """The machine was twice as fast in the second round, and that says nothing of either."""
    row = compare("g", "n", [10, 20, 10], [20, 40, 5], unit="1/s", higher=True)
    assert row.ratio == 0.5
    assert (row.ours, row.peer) == (10, 20)


@pytest.mark.parametrize(
    ("ours", "target", "higher", "met"),
    [
        ([1.0, 1.0, 1.0], 0.95, True, True),
        ([0.9, 0.9, 0.9], 0.95, True, False),
        ([0.9, 0.9, 0.9], 0.95, False, True),
        ([1.0, 1.0, 1.0], 0.95, False, False),
        ([1.0], 0.95, True, True),
        ([1.0, 1.0, 1.0], None, True, None),
        # The quartiles stand on both sides of the target.
        ([0.8, 0.9, 1.0, 1.1], 0.95, True, None),
    ],
)
def test_a_target_is_met_missed_or_left_undecided(
    ours: list[float], target: float | None, higher: bool, met: bool | None
) -> None:
    row = compare("g", "n", ours, [1.0] * len(ours), unit="1/s", higher=higher, target=target)
    assert row.met is met
    assert alone("g", "n", ours, unit="1/s", higher=higher, target=target).met is met
    assert ("disagree" in row.note) == (met is None and target is not None)


def test_a_ratio_with_a_wide_spread_says_so() -> None:
    assert "wide spread" in compare("g", "n", [1, 2, 3], [1, 1, 1], unit="s", higher=False).note
    assert compare("g", "n", [1.0, 1.01, 1.02], [1, 1, 1], unit="s", higher=False).note == ""


@pytest.mark.parametrize(("percent", "expected"), [(50, 5), (99, 10), (1, 1), (100, 10)])
def test_a_percentile_is_one_of_the_values(percent: float, expected: int) -> None:
    assert percentile([3, 1, 2, 10, 9, 8, 4, 5, 6, 7], percent) == expected
