"""ConcurrencyLimit for calls that take long: each holds a thread of the server, and signing in needs threads too."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from authsvc.errors import TooMany

__all__ = ["ConcurrencyLimit"]


class ConcurrencyLimit:
    """So many calls of a kind may be served at once. Thread-safe.

    advice: what to tell whoever finds no place; what to do instead
    """

    def __init__(self, at_once: int, advice: str) -> None:
        self._free = threading.BoundedSemaphore(at_once)
        self._advice = advice

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Holds a place. TooMany at once, without waiting, if there is none."""
        if not self._free.acquire(blocking=False):
            raise TooMany(self._advice)
        try:
            yield
        finally:
            self._free.release()
