"""A bounded cache that threads read without a lock."""

from __future__ import annotations

from typing import Generic, TypeVar

__all__ = ["TwoGenerationCache"]

V = TypeVar("V")


class TwoGenerationCache(Generic[V]):
    """Keeps at least the `size` most recently used entries and at most twice as many.

    A hit in the young generation writes nothing; a hit in the old one moves the entry to the young one. A young
    generation that is full becomes the old one, and the old one's entries are dropped. This approximates LRU at the
    price of one dict lookup. Every step is a single dict operation or assignment, so no lock is needed.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._young: dict[str, V] = {}
        self._old: dict[str, V] = {}

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def get(self, key: str) -> V | None:
        """Returns the entry, or None."""
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
        """Removes an entry."""
        self._young.pop(key, None)
        self._old.pop(key, None)

    def clear(self) -> None:
        """Removes all entries."""
        self._young = {}
        self._old = {}
