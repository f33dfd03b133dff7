"""The statistics of the benchmark: medians of neighbouring rounds' ratios, and no verdict from too few rounds."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bench.results.statistics import (
    MIN_ROUNDS_TO_DECIDE,
    comparison_row,
    count_row,
    interleave,
    median_interval,
    percentile,
    percentiles_by_block,
    single_row,
)


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
    """The machine was twice as fast in the second round, which must not change the ratio."""
    row = comparison_row("g", "n", [10, 20, 10], [20, 40, 5], unit="1/s", higher=True)
    assert row.ratio == 0.5
    assert (row.ours, row.peer) == (10, 20)


@pytest.mark.parametrize(
    ("ours", "target", "higher", "met"),
    [
        ([1.0] * 6, 0.95, True, True),
        ([0.9] * 6, 0.95, True, False),
        ([0.9] * 6, 0.95, False, True),
        ([1.0] * 6, 0.95, False, False),
        ([0.95] * 6, 0.95, True, True),
        ([1.0] * 6, None, True, None),
        # Five of five rounds lie on one side of the median once in sixteen times, so they do not decide.
        ([1.0] * 5, 0.95, True, None),
        ([0.9, *[1.0] * 5], 0.95, True, None),
        # One of nine rounds may lie on the other side; with two of nine, the interval contains the target.
        ([0.9, *[1.0] * 8], 0.95, True, True),
        ([0.9, 0.9, *[1.0] * 7], 0.95, True, None),
        # The quartiles lie on both sides of the target, but there are enough rounds to decide.
        ([*[0.9] * 30, *[1.0] * 60], 0.95, True, True),
        ([*[0.9] * 60, *[1.0] * 30], 0.95, True, False),
        ([*[0.9] * 40, *[1.0] * 50], 0.95, True, None),
    ],
)
def test_a_target_is_met_missed_or_left_undecided(
    ours: list[float], target: float | None, higher: bool, met: bool | None
) -> None:
    row = comparison_row("g", "n", ours, [1.0] * len(ours), unit="1/s", higher=higher, target=target)
    assert row.met is met
    assert single_row("g", "n", ours, unit="1/s", higher=higher, target=target).met is met
    assert ("decide" in row.note) == (met is None and target is not None)


@pytest.mark.parametrize(
    ("rounds", "smallest", "largest"),
    # From statistical tables of the sign test.
    [(6, 1, 6), (8, 1, 8), (9, 2, 8), (15, 4, 12), (25, 8, 18), (45, 16, 30), (100, 40, 61)],
)
def test_the_interval_of_a_median_is_that_of_the_binomial_distribution(
    rounds: int, smallest: int, largest: int
) -> None:
    shuffled = [(7 * number) % 101 for number in range(101)]
    values = [value for value in shuffled if 1 <= value <= rounds]
    assert median_interval(values) == (smallest, largest)


@pytest.mark.parametrize("rounds", range(6))
def test_a_median_of_too_few_rounds_has_no_interval(rounds: int) -> None:
    assert rounds < MIN_ROUNDS_TO_DECIDE
    assert median_interval([1.0] * rounds) is None


def test_a_count_over_the_whole_run_needs_no_rounds() -> None:
    assert count_row("g", "n", 0, unit="calls", higher=False, target=0.0).met is True
    assert count_row("g", "n", 1, unit="calls", higher=False, target=0.0).met is False
    assert count_row("g", "n", 1, unit="calls", higher=False).met is None


@pytest.mark.parametrize(("count", "blocks"), [(320, 8), (40, 8), (3, 3)])
def test_a_percentile_of_blocks_has_a_spread(count: int, blocks: int) -> None:
    """With enough values there are eight blocks, more than the rounds that decide a target."""
    size = count // blocks
    assert percentiles_by_block(range(count), 100) == [(number + 1) * size - 1 for number in range(blocks)]


def test_a_ratio_with_a_wide_spread_says_so() -> None:
    assert "wide spread" in comparison_row("g", "n", [1, 2, 3], [1, 1, 1], unit="s", higher=False).note
    assert comparison_row("g", "n", [1.0, 1.01, 1.02], [1, 1, 1], unit="s", higher=False).note == ""


@pytest.mark.parametrize(("percent", "expected"), [(50, 5), (99, 10), (1, 1), (100, 10)])
def test_a_percentile_is_one_of_the_values(percent: float, expected: int) -> None:
    assert percentile([3, 1, 2, 10, 9, 8, 4, 5, 6, 7], percent) == expected
