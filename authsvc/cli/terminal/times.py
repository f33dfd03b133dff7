"""Moments and spans as a person reads them. Pure: the present is an argument.

Moments are seconds since 1970. They may come from a token that anybody wrote, so any finite number is fine.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

__all__ = ["clock_time", "local_time", "moment", "relative", "span"]

_MINUTE: Final = 60.0
_HOUR: Final = 60 * _MINUTE
_DAY: Final = 24 * _HOUR


def span(seconds: float) -> str:
    """A length of time in the one unit that suits it, e.g. "45 s", "12 min", "3 h", "5 days"."""
    seconds = abs(seconds)
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * _MINUTE:
        return f"{seconds / _MINUTE:.0f} min"
    if seconds < 36 * _HOUR:
        return f"{seconds / _HOUR:.0f} h"
    return f"{seconds / _DAY:,.0f} days"


def relative(when: float, now: float) -> str:
    """A moment seen from now, e.g. "3 min ago", "in 2 h"; "now" within a second."""
    if abs(when - now) < 1:
        return "now"
    return f"in {span(when - now)}" if when > now else f"{span(now - when)} ago"


def local_time(when: float) -> str:
    """A moment in local time, to the second, with its offset from UTC, e.g. "2025-11-23 15:10:02+01:00"."""
    moved = _local(when)
    return f"{when:g} s since 1970" if moved is None else moved.isoformat(sep=" ", timespec="seconds")


def clock_time(when: float) -> str:
    """A moment of today in local time, to the second, e.g. "15:10:02"."""
    moved = _local(when)
    return f"{when:g} s since 1970" if moved is None else f"{moved:%H:%M:%S}"


def moment(when: float | None, now: float) -> str:
    """A moment as a table shows it: relative within a day and a half, else the local date and time; "-" for none."""
    if when is None:
        return "-"
    if abs(when - now) < 36 * _HOUR:
        return relative(when, now)
    moved = _local(when)
    return f"{when:g} s since 1970" if moved is None else f"{moved:%Y-%m-%d %H:%M}"


def _local(when: float) -> datetime | None:
    try:
        return datetime.fromtimestamp(when).astimezone()
    except (OverflowError, OSError, ValueError):
        return None  # beyond the years that a date has
