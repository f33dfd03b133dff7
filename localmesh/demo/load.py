"""Calls in the background, and a count of their outcomes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Self

from grpc import aio

from credmesh.samples.inventory.v1 import inventory_pb2
from credmesh.samples.storefront.v1 import storefront_pb2
from localmesh.demo.mesh_client import CALL_TIMEOUT_SECONDS, MeshClient, Metadata, failure_reason, reason_text

__all__ = ["BackgroundCalls"]


class BackgroundCalls:
    """Calls services from entering to leaving this context, alternating a call of one hop with one of three hops.

    client    the client that makes the calls
    metadata  one function for each concurrent caller; it is called for the metadata of every call
    pause     seconds between two pairs of calls; 0 is full speed

    A failed call is not retried: it is counted by its reason.
    """

    def __init__(self, client: MeshClient, metadata: Sequence[Callable[[], Metadata]], *, pause: float = 0.0) -> None:
        self._client = client
        self._metadata = metadata
        self._pause = pause
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False
        self.ok = 0
        self.refused: Counter[str] = Counter()

    @property
    def calls(self) -> int:
        """The number of calls that have ended."""
        return self.ok + self.refused.total()

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._call_repeatedly(metadata)) for metadata in self._metadata]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stopping = True
        await asyncio.gather(*self._tasks)

    async def _call_repeatedly(self, metadata: Callable[[], Metadata]) -> None:
        get_stock = inventory_pb2.GetStockRequest(sku="tea")
        buy = storefront_pb2.BuyRequest(sku="tea", quantity=1)
        client, timeout = self._client, CALL_TIMEOUT_SECONDS
        while not self._stopping:
            await self._count(lambda: client.inventory.GetStock(get_stock, metadata=metadata(), timeout=timeout))
            await self._count(lambda: client.storefront.Buy(buy, metadata=metadata(), timeout=timeout))
            await asyncio.sleep(self._pause)

    async def _count(self, call: Callable[[], Awaitable[object]]) -> None:
        try:
            await call()
        except aio.AioRpcError as error:
            self.refused[reason_text(failure_reason(error))] += 1
        else:
            self.ok += 1
