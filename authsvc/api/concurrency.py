"""A limit for calls that take long. Each of them holds a thread of the server, and signing in needs threads too."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from authsvc.errors import RateLimited

__all__ = ["ConcurrencyLimit"]


class ConcurrencyLimit:
    """Limits how many calls of a kind are served at once. Thread-safe.

    advice: the text of the refusal. It says what to do instead.
    """

    def __init__(self, max_calls: int, advice: str) -> None:
        self._slots = threading.BoundedSemaphore(max_calls)
        self._advice = advice

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Occupies a slot. Raises RateLimited if none is free, without waiting."""
        if not self._slots.acquire(blocking=False):
            raise RateLimited(self._advice)
        try:
            yield
        finally:
            self._slots.release()
