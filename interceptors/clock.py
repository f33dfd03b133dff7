"""The clock that freshness is measured on."""

from __future__ import annotations

import time

__all__ = ["ticks"]


def ticks() -> float:
    """Returns seconds since a fixed moment, by a clock that is never set or slewed and runs during sleep.

    CLOCK_MONOTONIC and CLOCK_BOOTTIME are slewed with the wall clock, by up to a tenth: where the clock is slowed down,
    ten of their seconds take eleven. CLOCK_MONOTONIC_RAW is never slewed, but stands still while the machine sleeps, as
    CLOCK_MONOTONIC does: after an hour of sleep a node would take its last proof to be a second old. The difference of
    CLOCK_BOOTTIME and CLOCK_MONOTONIC is the time that the machine slept.

    The order of the reads matters: a thread that is paused between them returns a time from before the pause, never a
    later one.
    """
    boot = time.clock_gettime(time.CLOCK_BOOTTIME)
    awake = time.clock_gettime(time.CLOCK_MONOTONIC)
    return time.clock_gettime(time.CLOCK_MONOTONIC_RAW) + (boot - awake)
