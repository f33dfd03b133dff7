"""Inventory: keeps stock. An asyncio server. WatchStock shows a response stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

import grpc
from grpc import aio

from credmesh.samples.inventory.v1 import inventory_pb2 as pb
from credmesh.samples.inventory.v1.inventory_pb2_grpc import (
    InventoryServiceServicer,
    add_InventoryServiceServicer_to_server,
)
from interceptors import current_caller
from interceptors.serving import ServiceSettings, join_mesh, serve_aio, service_process
from interceptors.settings import read_settings
from services.stock import OutOfStock, Stock, TooSlow, UnknownItem

__all__ = ["Inventory", "main"]

Context = aio.ServicerContext[Any, Any]

_MAX_QUANTITY: Final = 1000
_OPENING_STOCK: Final = {"tea": 1_000_000, "coffee": 1_000_000, "cups": 1_000_000, "teapot": 3}


class Inventory(InventoryServiceServicer):
    """The servicer."""

    def __init__(self, stock: Stock) -> None:
        self._stock = stock

    async def GetStock(self, request: pb.GetStockRequest, context: Context) -> pb.GetStockResponse:
        """See inventory.proto."""
        try:
            left = self._stock.left(request.sku)
        except UnknownItem:
            await _not_found(context, request.sku)
        return pb.GetStockResponse(left=left, seen=_seen())

    async def Reserve(self, request: pb.ReserveRequest, context: Context) -> pb.ReserveResponse:
        """See inventory.proto."""
        if not 1 <= request.quantity <= _MAX_QUANTITY:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"quantity must be from 1 to {_MAX_QUANTITY}")
        try:
            left = self._stock.reserve(request.sku, request.quantity)
        except UnknownItem:
            await _not_found(context, request.sku)
        except OutOfStock as error:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
        return pb.ReserveResponse(left=left, seen=_seen())

    async def WatchStock(self, request: pb.WatchStockRequest, context: Context) -> AsyncIterator[pb.WatchStockResponse]:
        """See inventory.proto."""
        try:
            async for sku, left in self._stock.watch(request.sku):
                yield pb.WatchStockResponse(sku=sku, left=left)
        except UnknownItem:
            await _not_found(context, request.sku)
        except TooSlow as error:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{error}; watch again, and read faster")


def _seen() -> pb.Seen:
    return pb.Seen(service="inventory", subject=current_caller().subject)


async def _not_found(context: Context, sku: str) -> None:
    await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no {sku[:64]!r}; there are {', '.join(_OPENING_STOCK)}")


def main() -> None:
    """Runs inventory until a signal stops it."""
    with service_process("inventory"):
        settings = read_settings(ServiceSettings)
        stock = Stock(_OPENING_STOCK)
        with join_mesh(settings) as node:
            asyncio.run(
                serve_aio(
                    lambda server: add_InventoryServiceServicer_to_server(Inventory(stock), server),
                    node=node,
                    settings=settings.server,
                    services=[pb.DESCRIPTOR.services_by_name["InventoryService"].full_name],
                    on_stop=[stock.close],
                )
            )


if __name__ == "__main__":
    main()
