"""Points in time and durations as people write them."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authsvc.cli.terminal.times import local_time, moment, relative, span

NOW = 1_764_000_000.0


@pytest.fixture
def berlin() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", "Europe/Berlin")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 ms"),
        (0.25, "250 ms"),
        (45, "45 s"),
        (-45, "45 s"),
        (89, "89 s"),
        (90, "2 min"),
        (300, "5 min"),
        (5400, "2 h"),
        (86_400, "24 h"),
        (130_000, "2 days"),
        (86_400 * 4000, "4,000 days"),
    ],
)
def test_a_duration_has_one_suitable_unit(seconds: float, text: str) -> None:
    assert span(seconds) == text


@pytest.mark.parametrize(
    ("when", "text"), [(NOW, "now"), (NOW + 0.9, "now"), (NOW - 180, "3 min ago"), (NOW + 7200, "in 2 h")]
)
def test_a_point_in_time_is_relative_to_now(when: float, text: str) -> None:
    assert relative(when, NOW) == text


@pytest.mark.usefixtures("berlin")
def test_a_near_point_in_time_is_relative_and_a_distant_one_a_local_date() -> None:
    assert moment(NOW - 60, NOW) == "60 s ago"
    assert moment(NOW - 40 * 3600, NOW) == "2025-11-23 01:00"
    assert moment(None, NOW) == "-"
    assert local_time(NOW) == "2025-11-24 17:00:00+01:00"


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_finite_number_is_accepted(when: float) -> None:
    assert local_time(when)
    assert moment(when, NOW)
    assert relative(when, NOW)
