"""The service under test: the API of the sample inventory, with handlers that do almost nothing.

The benchmark measures what happens before a handler runs, so the handler itself must cost little.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any, Final

from credmesh.samples.inventory.v1 import inventory_pb2, inventory_pb2_grpc
from interceptors.policy import MethodRule

__all__ = [
    "AUDIENCE",
    "GET_STOCK",
    "RULE",
    "SCOPE",
    "SERVICE",
    "WATCH_STOCK",
    "AioShop",
    "SyncShop",
    "grpc_framed",
    "stock_response",
    "watch_responses",
]

SERVICE: Final = "credmesh.samples.inventory.v1.InventoryService"
GET_STOCK: Final = f"/{SERVICE}/GetStock"
WATCH_STOCK: Final = f"/{SERVICE}/WatchStock"
AUDIENCE: Final = "inventory"
SCOPE: Final = "shop.read"

RULE: Final = MethodRule(GET_STOCK, audience=AUDIENCE, scopes=frozenset({SCOPE}))
"""The rule of GetStock, for verification without a server."""


class SyncShop(inventory_pb2_grpc.InventoryServiceServicer):
    """For grpc.server."""

    def GetStock(self, request: inventory_pb2.GetStockRequest, context: Any) -> inventory_pb2.GetStockResponse:
        """Answers with the length of the SKU."""
        del context
        return stock_response(request.sku)

    def Reserve(self, request: inventory_pb2.ReserveRequest, context: Any) -> inventory_pb2.ReserveResponse:
        """Not measured."""
        del request, context
        return inventory_pb2.ReserveResponse()

    def WatchStock(
        self, request: inventory_pb2.WatchStockRequest, context: Any
    ) -> Iterator[inventory_pb2.WatchStockResponse]:
        """Sends as many messages as `sku` says. "hold" sends one and then waits until the call ends."""
        if request.sku == "hold":
            ended = threading.Event()
            yield from watch_responses(1)
            if context.add_callback(ended.set):
                ended.wait()
        else:
            yield from watch_responses(int(request.sku))


class AioShop(inventory_pb2_grpc.InventoryServiceServicer):
    """For grpc.aio.server."""

    async def GetStock(self, request: inventory_pb2.GetStockRequest, context: Any) -> inventory_pb2.GetStockResponse:
        """As in SyncShop."""
        del context
        return stock_response(request.sku)

    async def Reserve(self, request: inventory_pb2.ReserveRequest, context: Any) -> inventory_pb2.ReserveResponse:
        """Not measured."""
        del request, context
        return inventory_pb2.ReserveResponse()

    async def WatchStock(
        self, request: inventory_pb2.WatchStockRequest, context: Any
    ) -> AsyncIterator[inventory_pb2.WatchStockResponse]:
        """As in SyncShop."""
        del context
        if request.sku == "hold":
            for message in watch_responses(1):
                yield message
            await asyncio.Event().wait()
        else:
            for message in watch_responses(int(request.sku)):
                yield message


def stock_response(sku: str) -> inventory_pb2.GetStockResponse:
    """The response of GetStock."""
    return inventory_pb2.GetStockResponse(left=len(sku))


def watch_responses(count: int) -> Iterator[inventory_pb2.WatchStockResponse]:
    """The responses of WatchStock."""
    return (inventory_pb2.WatchStockResponse(sku="tea", left=left) for left in range(count))


def grpc_framed(messages: Iterable[Any]) -> bytes:
    """Messages as gRPC sends them: each after a prefix of five bytes."""
    return b"".join(
        len(data).to_bytes(5, "big") + data for data in (message.SerializeToString() for message in messages)
    )
