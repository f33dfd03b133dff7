"""A stream of stock changes that stays open, and how it ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from grpc import aio

from credmesh.samples.inventory.v1 import inventory_pb2
from interceptors.errors import Reason
from localmesh.demo.actors import Nodes, Person, why

__all__ = ["StockStream"]


@dataclass(slots=True)
class StockStream:
    """Somebody's open WatchStock stream, read in the background.

    changes   how many came
    ended     set when the server has ended it
    ended_at  seconds since 1970
    reason    why; None if it just ended
    """

    changes: int = 0
    ended_at: float = 0.0
    reason: Reason | grpc.StatusCode | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    @classmethod
    @asynccontextmanager
    async def of(cls, nodes: Nodes, person: Person) -> AsyncIterator[StockStream]:
        """Opens a stream and returns when its first message is there."""
        stream = cls()
        call = nodes.inventory.WatchStock(inventory_pb2.WatchStockRequest(sku="tea"), metadata=person.metadata)
        await call.read()
        reader = asyncio.create_task(stream._read(call))
        try:
            yield stream
        finally:
            call.cancel()
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    async def _read(self, call: aio.UnaryStreamCall[Any, Any]) -> None:
        try:
            while await call.read() is not aio.EOF:
                self.changes += 1
        except aio.AioRpcError as error:
            self.reason = why(error)
        self.ended_at = time.time()
        self.ended.set()
