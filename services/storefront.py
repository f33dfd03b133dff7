"""Storefront: the shop that customers see. An asyncio server. Chat shows streams in both directions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Final

import grpc
from grpc import aio

from credmesh.samples.inventory.v1 import inventory_pb2
from credmesh.samples.inventory.v1.inventory_pb2_grpc import InventoryServiceStub
from credmesh.samples.orders.v1 import orders_pb2
from credmesh.samples.orders.v1.orders_pb2_grpc import OrdersServiceStub
from credmesh.samples.storefront.v1 import storefront_pb2 as pb
from credmesh.samples.storefront.v1.storefront_pb2_grpc import (
    StorefrontServiceServicer,
    add_StorefrontServiceServicer_to_server,
)
from interceptors import MeshNode, current_caller
from interceptors.server import relay_status_aio
from interceptors.serving import aio_propagating_channel, join_mesh, serve_aio, service_process
from interceptors.settings import read_settings
from services.settings import StorefrontSettings

if TYPE_CHECKING:  # names that exist only in the type stubs
    from credmesh.samples.inventory.v1.inventory_pb2_grpc import InventoryServiceAsyncStub
    from credmesh.samples.orders.v1.orders_pb2_grpc import OrdersServiceAsyncStub

__all__ = ["Storefront", "main"]

Context = aio.ServicerContext[Any, Any]

_TIMEOUT_SECONDS: Final = 5.0
_MAX_QUESTION_CHARACTERS: Final = 1024


class Storefront(StorefrontServiceServicer):
    """The servicer."""

    def __init__(self, orders: OrdersServiceAsyncStub, inventory: InventoryServiceAsyncStub) -> None:
        self._orders = orders
        self._inventory = inventory

    async def Buy(self, request: pb.BuyRequest, context: Context) -> pb.BuyResponse:
        """See storefront.proto."""
        order = orders_pb2.PlaceOrderRequest(sku=request.sku, quantity=request.quantity)
        try:
            placed = await self._orders.PlaceOrder(order, timeout=_TIMEOUT_SECONDS)
        except aio.AioRpcError as error:
            await relay_status_aio(context, error)
        seen = [pb.Seen(service="storefront", subject=current_caller().subject)]
        seen.extend(pb.Seen(service=one.service, subject=one.subject) for one in placed.seen)
        return pb.BuyResponse(order_id=placed.order_id, left=placed.left, seen=seen)

    async def Chat(
        self, request_iterator: AsyncIterator[pb.ChatRequest], context: Context
    ) -> AsyncIterator[pb.ChatResponse]:
        """See storefront.proto. The last word of a question names an item."""
        async for question in request_iterator:
            if len(question.text) > _MAX_QUESTION_CHARACTERS:
                await context.abort(
                    grpc.StatusCode.INVALID_ARGUMENT, f"text is above {_MAX_QUESTION_CHARACTERS} characters"
                )
            yield pb.ChatResponse(text=await self._answer(question.text, context))

    async def _answer(self, question: str, context: Context) -> str:
        name = current_caller().subject
        words = question.split()
        if not words:
            return f"What can I do for you, {name}?"
        sku = words[-1].rstrip("?.!").lower()
        try:
            stock = await self._inventory.GetStock(inventory_pb2.GetStockRequest(sku=sku), timeout=_TIMEOUT_SECONDS)
        except aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                await relay_status_aio(context, error)
            return f"I am sorry, {name}: {error.details()}."
        return f"There are {stock.left:,} of {sku}, {name}."


async def _serve(settings: StorefrontSettings, node: MeshNode) -> None:
    async with (
        aio_propagating_channel("ORDERS_TARGET", settings.orders, settings) as orders,
        aio_propagating_channel("INVENTORY_TARGET", settings.inventory, settings) as inventory,
    ):
        storefront = Storefront(OrdersServiceStub(orders), InventoryServiceStub(inventory))
        await serve_aio(
            lambda server: add_StorefrontServiceServicer_to_server(storefront, server),
            node=node,
            settings=settings.server,
            services=[pb.DESCRIPTOR.services_by_name["StorefrontService"].full_name],
        )


def main() -> None:
    """Runs storefront until a signal stops it."""
    with service_process("storefront"):
        settings = read_settings(StorefrontSettings)
        # The node starts before the event loop. If it blocked the loop to wait for etcd, Ctrl-C would have no effect.
        with join_mesh(settings) as node:
            asyncio.run(_serve(settings, node))


if __name__ == "__main__":
    main()
