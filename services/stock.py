"""The stock of inventory, and the watchers of its changes. For use in one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Final

__all__ = ["OutOfStock", "Stock", "TooSlow", "UnknownItem"]

_MAX_WAITING_CHANGES: Final = 10_000


class UnknownItem(Exception):
    """Inventory does not keep this item."""


class OutOfStock(Exception):
    """There are fewer of the item than were to be reserved."""


class TooSlow(Exception):
    """A watcher reads more slowly than stock changes, and the changes that wait for it have reached the limit."""


class _Watcher:
    """A watcher of one item, or of all if `sku` is empty. None in `changes` ends it."""

    def __init__(self, sku: str) -> None:
        self.sku = sku
        self.changes: asyncio.Queue[tuple[str, int] | None] = asyncio.Queue()
        self.too_slow = False


class Stock:
    """How many there are of each item."""

    def __init__(self, left: Mapping[str, int]) -> None:
        self._left = dict(left)
        self._watchers: set[_Watcher] = set()

    def left(self, sku: str) -> int:
        """Returns how many there are of an item. Raises UnknownItem."""
        try:
            return self._left[sku]
        except KeyError:
            raise UnknownItem(sku) from None

    def reserve(self, sku: str, quantity: int) -> int:
        """Takes a quantity out of stock; returns how many are left. Raises UnknownItem or OutOfStock."""
        left = self.left(sku)
        if left < quantity:
            raise OutOfStock(f"{left} of {sku} are left")
        self._left[sku] = left - quantity
        for watcher in self._watchers:
            if watcher.sku in ("", sku):
                self._add_change(watcher, sku, left - quantity)
        return left - quantity

    async def watch(self, sku: str = "") -> AsyncIterator[tuple[str, int]]:
        """Yields the stock of one item, or of all, and then every change. Raises UnknownItem or TooSlow."""
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
        if watcher.too_slow:
            raise TooSlow(f"more than {_MAX_WAITING_CHANGES} changes were waiting")

    def close(self) -> None:
        """Ends all watchers."""
        for watcher in self._watchers:
            watcher.changes.put_nowait(None)

    def _add_change(self, watcher: _Watcher, sku: str, left: int) -> None:
        if watcher.changes.qsize() < _MAX_WAITING_CHANGES:
            watcher.changes.put_nowait((sku, left))
        elif not watcher.too_slow:
            # The watcher ends with an error. If changes were left out instead, it could not notice the gap.
            watcher.too_slow = True
            watcher.changes.put_nowait(None)
