"""Exponential backoff with jitter."""

from __future__ import annotations

import random
from collections.abc import Callable

__all__ = ["Backoff"]


class Backoff:
    """The delays between attempts: they double from `first_seconds` up to `longest_seconds`.

    A random part of each delay, at most half of it, is left out, so that processes that failed together do not retry
    together.
    """

    __slots__ = ("_first_seconds", "_longest_seconds", "_next_seconds")

    def __init__(self, first_seconds: float, longest_seconds: float) -> None:
        self._first_seconds = first_seconds
        self._longest_seconds = longest_seconds
        self._next_seconds = first_seconds

    def next_delay(self, random: Callable[[], float] = random.random) -> float:
        """Returns the seconds to wait before the next attempt, and doubles the delay after it. random: in [0, 1)."""
        delay = self._next_seconds * (0.5 + random() / 2)
        self._next_seconds = min(2 * self._next_seconds, self._longest_seconds)
        return delay

    def reset(self) -> None:
        """Begins again with the first delay, after an attempt that succeeded."""
        self._next_seconds = self._first_seconds
