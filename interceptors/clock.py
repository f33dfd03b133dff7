"""The clock that freshness is measured on."""

from __future__ import annotations

import time

__all__ = ["ticks"]


def ticks() -> float:
    """Seconds since some moment in the past, by a clock that nobody sets, and that goes on while the machine sleeps.

    CLOCK_MONOTONIC and CLOCK_BOOTTIME are slewed together with the wall clock, by up to a tenth: on a node that is
    steered slow, ten seconds would take eleven. CLOCK_MONOTONIC_RAW is steered by nobody, but like CLOCK_MONOTONIC it
    stands still while the machine sleeps: a node that wakes up after an hour would take its last proof for a second
    old. How long it slept is the difference of the other two.

    The order matters: whoever is paused in between reads a time from before the pause, and never one that is to come.
    """
    boot = time.clock_gettime(time.CLOCK_BOOTTIME)
    awake = time.clock_gettime(time.CLOCK_MONOTONIC)
    return time.clock_gettime(time.CLOCK_MONOTONIC_RAW) + (boot - awake)
