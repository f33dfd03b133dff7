"""Backoff: delays grow up to a limit, and jitter spreads them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from interceptors.backoff import Backoff


def test_delays_double_up_to_the_longest_and_begin_again_after_a_reset() -> None:
    backoff = Backoff(1.0, 5.0)
    assert [backoff.next_delay(lambda: 1.0) for _ in range(5)] == [1.0, 2.0, 4.0, 5.0, 5.0]
    backoff.reset()
    assert backoff.next_delay(lambda: 1.0) == 1.0


@given(st.floats(0, 1, exclude_max=True))
def test_jitter_takes_at_most_half_of_a_delay(drawn: float) -> None:
    assert 0.5 <= Backoff(1.0, 1.0).next_delay(lambda: drawn) <= 1.0
