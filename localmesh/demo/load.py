"""Callers that call all the time, and count what they get."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Self

from grpc import aio

from credmesh.samples.inventory.v1 import inventory_pb2
from credmesh.samples.storefront.v1 import storefront_pb2
from localmesh.demo.actors import TIMEOUT, Metadata, Nodes, reason_text, why

__all__ = ["Callers"]


class Callers:
    """Calls in the background from entering to leaving: in turn one of one hop, and one of three.

    Each caller takes its metadata anew for every call. `pause` is in seconds; 0 is full speed. Nothing is tried again:
    what is not OK is counted by its reason.
    """

    def __init__(self, nodes: Nodes, who: Sequence[Callable[[], Metadata]], *, pause: float = 0.0) -> None:
        self._nodes = nodes
        self._who = who
        self._pause = pause
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False
        self.ok = 0
        self.refused: Counter[str] = Counter()

    @property
    def calls(self) -> int:
        """How many calls have ended."""
        return self.ok + self.refused.total()

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._call_all_the_time(who)) for who in self._who]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stopping = True
        await asyncio.gather(*self._tasks)

    async def _call_all_the_time(self, who: Callable[[], Metadata]) -> None:
        buy = storefront_pb2.BuyRequest(sku="tea", quantity=1)
        ask = inventory_pb2.GetStockRequest(sku="tea")
        while not self._stopping:
            await self._count(lambda: self._nodes.inventory.GetStock(ask, metadata=who(), timeout=TIMEOUT))
            await self._count(lambda: self._nodes.storefront.Buy(buy, metadata=who(), timeout=TIMEOUT))
            await asyncio.sleep(self._pause)

    async def _count(self, call: Callable[[], Awaitable[object]]) -> None:
        try:
            await call()
        except aio.AioRpcError as error:
            self.refused[reason_text(why(error))] += 1
        else:
            self.ok += 1
