"""A WatchStock stream that stays open, and how it ends."""

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
from localmesh.demo.mesh_client import MeshClient, SignedIn, failure_reason

__all__ = ["StockStream"]


@dataclass(slots=True)
class StockStream:
    """An open WatchStock stream, read in the background.

    changes   the number of messages so far
    ended     set when the server has ended the stream
    ended_at  when that was, in seconds since 1970
    reason    why the server ended it; None if the status was OK
    """

    changes: int = 0
    ended_at: float = 0.0
    reason: Reason | grpc.StatusCode | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    @classmethod
    @asynccontextmanager
    async def open(cls, client: MeshClient, caller: SignedIn) -> AsyncIterator[StockStream]:
        """Opens a stream and waits for its first message. The stream is cancelled when the context is left."""
        stream = cls()
        call = client.inventory.WatchStock(inventory_pb2.WatchStockRequest(sku="tea"), metadata=caller.metadata)
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
            self.reason = failure_reason(error)
        self.ended_at = time.time()
        self.ended.set()
