"""What is in stock, and who watches it. Belongs to one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Final

__all__ = ["OutOfStock", "Stock", "TooSlow", "UnknownThing"]

_WAITING_CHANGES: Final = 10_000


class UnknownThing(Exception):
    """There is no such thing."""


class OutOfStock(Exception):
    """There are not enough of it."""


class TooSlow(Exception):
    """A watcher reads more slowly than stock changes, and more changes wait for it than are kept."""


class _Watcher:
    """Somebody who watches one thing, or everything. None in `changes` ends it."""

    def __init__(self, sku: str) -> None:
        self.sku = sku
        self.changes: asyncio.Queue[tuple[str, int] | None] = asyncio.Queue()
        self.behind = False


class Stock:
    """How many there are of each thing."""

    def __init__(self, left: Mapping[str, int]) -> None:
        self._left = dict(left)
        self._watchers: set[_Watcher] = set()

    def left(self, sku: str) -> int:
        """How many there are. UnknownThing."""
        try:
            return self._left[sku]
        except KeyError:
            raise UnknownThing(sku) from None

    def reserve(self, sku: str, quantity: int) -> int:
        """Takes some out; returns what is left. UnknownThing, OutOfStock."""
        left = self.left(sku)
        if left < quantity:
            raise OutOfStock(f"{left} of {sku} are left")
        self._left[sku] = left - quantity
        for watcher in self._watchers:
            if watcher.sku in ("", sku):
                self._tell(watcher, sku, left - quantity)
        return left - quantity

    async def watch(self, sku: str = "") -> AsyncIterator[tuple[str, int]]:
        """What there is of one thing, or of everything, and then every change. UnknownThing, TooSlow."""
        now = {sku: self.left(sku)} if sku else dict(self._left)
        watcher = _Watcher(sku)
        self._watchers.add(watcher)
        try:
            for item in now.items():
                yield item
            while (change := await watcher.changes.get()) is not None:
                yield change
        finally:
            self._watchers.discard(watcher)
        if watcher.behind:
            raise TooSlow(f"more than {_WAITING_CHANGES} changes were waiting")

    def close(self) -> None:
        """Ends all watchers."""
        for watcher in self._watchers:
            watcher.changes.put_nowait(None)

    def _tell(self, watcher: _Watcher, sku: str, left: int) -> None:
        if watcher.changes.qsize() < _WAITING_CHANGES:
            watcher.changes.put_nowait((sku, left))
        elif not watcher.behind:
            # It is told that it fell behind, rather than left with a gap that it cannot see.
            watcher.behind = True
            watcher.changes.put_nowait(None)
