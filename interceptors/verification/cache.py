"""A bounded cache that threads read without a lock."""

from __future__ import annotations

from typing import Generic, TypeVar

__all__ = ["TwoGenerationCache"]

V = TypeVar("V")


class TwoGenerationCache(Generic[V]):
    """Keeps at least the `size` most recently used entries and at most twice as many.

    A hit in the young generation writes nothing; a hit in the old one moves the entry up. When the young one is full it
    becomes the old one, and what was not used for a whole generation is gone. This is LRU to within a generation, at
    the price of one dict lookup, and every step is a single dict operation or assignment.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._young: dict[str, V] = {}
        self._old: dict[str, V] = {}

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def get(self, key: str) -> V | None:
        """The entry, or None."""
        value = self._young.get(key)
        if value is None:
            value = self._old.pop(key, None)
            if value is not None:
                self.put(key, value)
        return value

    def put(self, key: str, value: V) -> None:
        """Adds or replaces an entry."""
        if self._size == 0:
            return
        if len(self._young) >= self._size and key not in self._young:
            self._old = self._young
            self._young = {}
        self._young[key] = value

    def drop(self, key: str) -> None:
        """Forgets an entry."""
        self._young.pop(key, None)
        self._old.pop(key, None)

    def clear(self) -> None:
        """Forgets everything."""
        self._young = {}
        self._old = {}
