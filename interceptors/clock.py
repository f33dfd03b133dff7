"""The clock that freshness is measured on."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

__all__ = ["ticks"]

ticks: Callable[[], float] = (
    # time.monotonic stands still while a machine sleeps: a node that wakes up after an hour would take what it proved
    # before for a second old. This clock goes on.
    partial(time.clock_gettime, time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic
)
"""Seconds since some moment in the past; never set, and counted on while the machine sleeps."""
