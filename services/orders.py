"""Orders: keeps each subject's orders, and reserves their items at inventory.

A sync server. ImportOrders shows a request stream, CancelOrders a strict method.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections import deque
from collections.abc import Iterator
from typing import Final

import grpc

from credmesh.samples.inventory.v1 import inventory_pb2
from credmesh.samples.inventory.v1.inventory_pb2_grpc import InventoryServiceStub
from credmesh.samples.orders.v1 import orders_pb2 as pb
from credmesh.samples.orders.v1.orders_pb2_grpc import OrdersServiceServicer, add_OrdersServiceServicer_to_server
from interceptors import current_caller
from interceptors.server import relay_status
from interceptors.serving import join_mesh, propagating_channel, serve, service_process
from interceptors.settings import read_settings
from services.settings import OrdersSettings

__all__ = ["OrderBook", "Orders", "main"]

_log: Final = logging.getLogger("credmesh.samples.orders")

_TIMEOUT_SECONDS: Final = 5.0
_MAX_ORDERS_PER_SUBJECT: Final = 10_000


class OrderBook:
    """The last orders of each subject, by id. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._orders: dict[str, deque[str]] = {}

    def add(self, subject: str) -> str:
        """Adds an order; returns its id."""
        order_id = secrets.token_hex(8)
        with self._lock:
            self._orders.setdefault(subject, deque(maxlen=_MAX_ORDERS_PER_SUBJECT)).append(order_id)
        return order_id

    def cancel(self, subject: str) -> int:
        """Removes a subject's orders; returns how many there were."""
        with self._lock:
            return len(self._orders.pop(subject, ()))


class Orders(OrdersServiceServicer):
    """The servicer."""

    def __init__(self, book: OrderBook, inventory: InventoryServiceStub) -> None:
        self._book = book
        self._inventory = inventory

    def PlaceOrder(self, request: pb.PlaceOrderRequest, context: grpc.ServicerContext) -> pb.PlaceOrderResponse:
        """See orders.proto."""
        try:
            reserved = self._reserve(request.sku, request.quantity)
        except grpc.RpcError as error:
            relay_status(context, error)
        subject = current_caller().subject
        order_id = self._book.add(subject)
        _log.debug("order %s: %d of %s", order_id, request.quantity, request.sku)
        seen = (pb.Seen(service="orders", subject=subject), _seen_by(reserved))
        return pb.PlaceOrderResponse(order_id=order_id, left=reserved.left, seen=seen)

    def ImportOrders(
        self, request_iterator: Iterator[pb.ImportOrdersRequest], context: grpc.ServicerContext
    ) -> pb.ImportOrdersResponse:
        """See orders.proto."""
        response = pb.ImportOrdersResponse()
        for order in request_iterator:
            try:
                self._reserve(order.sku, order.quantity)
            except grpc.RpcError as error:
                if not (isinstance(error, grpc.Call) and error.code() is grpc.StatusCode.FAILED_PRECONDITION):
                    relay_status(context, error)
                response.out_of_stock += 1
            else:
                self._book.add(current_caller().subject)
                response.placed += 1
        return response

    def CancelOrders(self, request: pb.CancelOrdersRequest, context: grpc.ServicerContext) -> pb.CancelOrdersResponse:
        """See orders.proto."""
        del request, context
        return pb.CancelOrdersResponse(cancelled=self._book.cancel(current_caller().subject))

    def _reserve(self, sku: str, quantity: int) -> inventory_pb2.ReserveResponse:
        return self._inventory.Reserve(
            inventory_pb2.ReserveRequest(sku=sku, quantity=quantity), timeout=_TIMEOUT_SECONDS
        )


def _seen_by(reserved: inventory_pb2.ReserveResponse) -> pb.Seen:
    return pb.Seen(service=reserved.seen.service, subject=reserved.seen.subject)


def main() -> None:
    """Runs orders until a signal stops it."""
    with service_process("orders"):
        settings = read_settings(OrdersSettings)
        with (
            join_mesh(settings) as node,
            propagating_channel("INVENTORY_TARGET", settings.inventory, settings) as inventory,
        ):
            orders = Orders(OrderBook(), InventoryServiceStub(inventory))
            serve(
                lambda server: add_OrdersServiceServicer_to_server(orders, server),
                node=node,
                settings=settings.server,
                services=[pb.DESCRIPTOR.services_by_name["OrdersService"].full_name],
            )


if __name__ == "__main__":
    main()
