"""The service under test: the sample inventory's API with handlers that do next to nothing.

What is measured is what stands before a handler, so the handler must not hide it.
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
    "framed",
    "stock",
    "watched",
]

SERVICE: Final = "credmesh.samples.inventory.v1.InventoryService"
GET_STOCK: Final = f"/{SERVICE}/GetStock"
WATCH_STOCK: Final = f"/{SERVICE}/WatchStock"
AUDIENCE: Final = "inventory"
SCOPE: Final = "shop.read"

RULE: Final = MethodRule(GET_STOCK, audience=AUDIENCE, scopes=frozenset({SCOPE}))
"""GetStock's, where it is asked for without a server."""


class SyncShop(inventory_pb2_grpc.InventoryServiceServicer):
    """For grpc.server."""

    def GetStock(self, request: inventory_pb2.GetStockRequest, context: Any) -> inventory_pb2.GetStockResponse:
        """So many as the name of the thing has letters."""
        del context
        return stock(request.sku)

    def Reserve(self, request: inventory_pb2.ReserveRequest, context: Any) -> inventory_pb2.ReserveResponse:
        """Nobody asks for it here."""
        del request, context
        return inventory_pb2.ReserveResponse()

    def WatchStock(
        self, request: inventory_pb2.WatchStockRequest, context: Any
    ) -> Iterator[inventory_pb2.WatchStockResponse]:
        """As many messages as `sku` says; "hold" sends one, and then waits until the call is over."""
        if request.sku == "hold":
            over = threading.Event()
            yield from watched(1)
            if context.add_callback(over.set):
                over.wait()
        else:
            yield from watched(int(request.sku))


class AioShop(inventory_pb2_grpc.InventoryServiceServicer):
    """For grpc.aio.server."""

    async def GetStock(self, request: inventory_pb2.GetStockRequest, context: Any) -> inventory_pb2.GetStockResponse:
        """As SyncShop's."""
        del context
        return stock(request.sku)

    async def Reserve(self, request: inventory_pb2.ReserveRequest, context: Any) -> inventory_pb2.ReserveResponse:
        """Nobody asks for it here."""
        del request, context
        return inventory_pb2.ReserveResponse()

    async def WatchStock(
        self, request: inventory_pb2.WatchStockRequest, context: Any
    ) -> AsyncIterator[inventory_pb2.WatchStockResponse]:
        """As SyncShop's."""
        del context
        if request.sku == "hold":
            for message in watched(1):
                yield message
            await asyncio.Event().wait()
        else:
            for message in watched(int(request.sku)):
                yield message


def stock(sku: str) -> inventory_pb2.GetStockResponse:
    """The answer of GetStock."""
    return inventory_pb2.GetStockResponse(left=len(sku))


def watched(count: int) -> Iterator[inventory_pb2.WatchStockResponse]:
    """The answer of WatchStock."""
    return (inventory_pb2.WatchStockResponse(sku="tea", left=left) for left in range(count))


def framed(messages: Iterable[Any]) -> bytes:
    """Messages as they come over the wire: each behind gRPC's prefix of five bytes."""
    return b"".join(
        len(data).to_bytes(5, "big") + data for data in (message.SerializeToString() for message in messages)
    )
