"""Points in time and durations as text for people. Pure: the present is an argument.

Points in time are seconds since 1970. They may come from an untrusted token, so every finite number is accepted.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

__all__ = ["clock_time", "local_time", "moment", "relative", "span"]

_MINUTE_SECONDS: Final = 60.0
_HOUR_SECONDS: Final = 60 * _MINUTE_SECONDS
_DAY_SECONDS: Final = 24 * _HOUR_SECONDS
_RELATIVE_WITHIN_SECONDS: Final = 36 * _HOUR_SECONDS


def span(seconds: float) -> str:
    """A duration in one suitable unit, e.g. "45 s", "12 min", "3 h", "5 days"."""
    seconds = abs(seconds)
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * _MINUTE_SECONDS:
        return f"{seconds / _MINUTE_SECONDS:.0f} min"
    if seconds < 36 * _HOUR_SECONDS:
        return f"{seconds / _HOUR_SECONDS:.0f} h"
    return f"{seconds / _DAY_SECONDS:,.0f} days"


def relative(when: float, now: float) -> str:
    """A point in time relative to now, e.g. "3 min ago", "in 2 h"; "now" within a second."""
    if abs(when - now) < 1:
        return "now"
    return f"in {span(when - now)}" if when > now else f"{span(now - when)} ago"


def local_time(when: float) -> str:
    """A point in time as local date and time with the offset from UTC, e.g. "2025-11-23 15:10:02+01:00"."""
    local = _local(when)
    return f"{when:g} s since 1970" if local is None else local.isoformat(sep=" ", timespec="seconds")


def clock_time(when: float) -> str:
    """A point in time as local time of day, e.g. "15:10:02"."""
    local = _local(when)
    return f"{when:g} s since 1970" if local is None else f"{local:%H:%M:%S}"


def moment(when: float | None, now: float) -> str:
    """A point in time for a table: relative within 36 hours, else the local date and time; "-" for None."""
    if when is None:
        return "-"
    if abs(when - now) < _RELATIVE_WITHIN_SECONDS:
        return relative(when, now)
    local = _local(when)
    return f"{when:g} s since 1970" if local is None else f"{local:%Y-%m-%d %H:%M}"


def _local(when: float) -> datetime | None:
    try:
        return datetime.fromtimestamp(when).astimezone()
    except (OverflowError, OSError, ValueError):
        return None  # outside the years that datetime supports
