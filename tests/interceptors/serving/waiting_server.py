"""A protected server, sync or asyncio, with handlers that block: `python -m … sync|aio`.

GetStock of "slow" returns after a Reserve; GetStock of "stuck" never returns. WatchStock ends when the drain begins.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

from credmesh.samples.inventory.v1 import inventory_pb2 as pb
from credmesh.samples.inventory.v1.inventory_pb2_grpc import (
    InventoryServiceServicer,
    add_InventoryServiceServicer_to_server,
)
from interceptors import MeshNode, MeshSettings, ServerSettings, read_settings
from interceptors.serving import serve, serve_aio, service_process

SERVICES = os.environ.get("WAITING_SERVICES", "credmesh.samples.inventory.v1.InventoryService").split()

log = logging.getLogger("waiting")


class Waiting(InventoryServiceServicer):
    """The sync servicer."""

    def __init__(self) -> None:
        self.reserved = threading.Event()
        self.stopping = threading.Event()

    def GetStock(self, request: pb.GetStockRequest, context: Any) -> pb.GetStockResponse:
        """See the module."""
        log.info("asked for %s", request.sku)
        if request.sku == "slow":
            self.reserved.wait()
        if request.sku == "stuck":
            threading.Event().wait()
        return pb.GetStockResponse(left=1)

    def Reserve(self, request: pb.ReserveRequest, context: Any) -> pb.ReserveResponse:
        """See the module."""
        self.reserved.set()
        return pb.ReserveResponse()

    def WatchStock(self, request: pb.WatchStockRequest, context: Any) -> Iterator[pb.WatchStockResponse]:
        """See the module."""
        yield pb.WatchStockResponse(left=1)
        self.stopping.wait()


class AioWaiting(InventoryServiceServicer):
    """The asyncio servicer."""

    def __init__(self) -> None:
        self.reserved = asyncio.Event()
        self.stopping = asyncio.Event()

    async def GetStock(self, request: pb.GetStockRequest, context: Any) -> pb.GetStockResponse:
        """See the module."""
        log.info("asked for %s", request.sku)
        if request.sku == "slow":
            await self.reserved.wait()
        if request.sku == "stuck":
            await asyncio.Event().wait()
        return pb.GetStockResponse(left=1)

    async def Reserve(self, request: pb.ReserveRequest, context: Any) -> pb.ReserveResponse:
        """See the module."""
        self.reserved.set()
        return pb.ReserveResponse()

    async def WatchStock(self, request: pb.WatchStockRequest, context: Any) -> AsyncIterator[pb.WatchStockResponse]:
        """See the module."""
        yield pb.WatchStockResponse(left=1)
        await self.stopping.wait()


async def serve_waiting_aio(node: MeshNode) -> None:
    """Runs the asyncio server."""
    servicer = AioWaiting()
    await serve_aio(
        lambda server: add_InventoryServiceServicer_to_server(servicer, server),
        node=node,
        settings=read_settings(ServerSettings),
        services=SERVICES,
        on_stop=[servicer.stopping.set],
    )


def main() -> None:
    """Runs the server that the command line names."""
    with service_process("waiting"), MeshNode(read_settings(MeshSettings)) as node:
        if sys.argv[1] == "aio":
            asyncio.run(serve_waiting_aio(node))
        else:
            servicer = Waiting()
            serve(
                lambda server: add_InventoryServiceServicer_to_server(servicer, server),
                node=node,
                settings=read_settings(ServerSettings),
                services=SERVICES,
                on_stop=[servicer.stopping.set],
            )


if __name__ == "__main__":
    main()
