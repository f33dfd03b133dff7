"""A server under test, in a process of its own: `python -m bench.workers.server CORES SETTINGS`."""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from cryptography.hazmat.primitives.serialization import load_der_public_key

from bench.machine import pin
from bench.peers.handwritten import HandwrittenAioInterceptor, HandwrittenInterceptor
from bench.peers.introspecting import IntrospectingAioInterceptor, IntrospectingInterceptor
from bench.shop import AioShop, SyncShop
from credmesh.samples.inventory.v1 import inventory_pb2_grpc
from interceptors import EtcdSettings, MeshNode, MeshSettings
from interceptors.client import AioCredentials, ClientSecret, Credentials, aio_channel, channel
from interceptors.server import AioServerInterceptor, ServerInterceptor
from interceptors.serving.listening import SERVER_OPTIONS

__all__ = ["main"]


def main() -> None:
    """Serves until it is killed."""
    pin(json.loads(sys.argv[1]))
    settings: dict[str, Any] = json.loads(sys.argv[2])
    node = _node(settings) if settings["guard"] == "credmesh" else None
    # What was made until now lives as long as the process; looking through it again and again would be noise.
    gc.freeze()
    if settings["aio"]:
        asyncio.run(_serve_aio(settings, node))
    else:
        _serve(settings, node)


def _node(settings: dict[str, Any]) -> MeshNode:
    etcd = EtcdSettings(endpoints=(settings["etcd"],), prefix=settings["prefix"])
    node = MeshNode(MeshSettings(etcd=etcd, service="inventory", issuer=settings["issuer"]))
    node.start(timeout=30)
    return node


def _serve(settings: dict[str, Any], node: MeshNode | None) -> None:
    interceptors: list[grpc.ServerInterceptor] = []
    if node is not None:
        interceptors.append(ServerInterceptor(node))
    elif settings["guard"] == "handwritten":
        interceptors.append(HandwrittenInterceptor(_public_key(settings), settings["issuer"]))
    elif settings["guard"] == "introspection":
        auth = channel(settings["auth"], allow_plaintext=True)
        ours = Credentials(ClientSecret("services", settings["client_secret"]), auth)
        asking = channel(settings["auth"], allow_plaintext=True, credentials=ours)
        interceptors.append(IntrospectingInterceptor(asking))
    pool = ThreadPoolExecutor(settings["threads"])
    server = grpc.server(pool, interceptors=interceptors, options=SERVER_OPTIONS)
    inventory_pb2_grpc.add_InventoryServiceServicer_to_server(SyncShop(), server)
    port = _listen(server, settings)
    server.start()
    _say_ready(port)
    threading.Event().wait()


async def _serve_aio(settings: dict[str, Any], node: MeshNode | None) -> None:
    interceptors: list[grpc.aio.ServerInterceptor] = []
    if node is not None:
        interceptors.append(AioServerInterceptor(node))
    elif settings["guard"] == "handwritten":
        interceptors.append(HandwrittenAioInterceptor(_public_key(settings), settings["issuer"]))
    elif settings["guard"] == "introspection":
        auth = aio_channel(settings["auth"], allow_plaintext=True)
        ours = AioCredentials(ClientSecret("services", settings["client_secret"]), auth)
        asking = aio_channel(settings["auth"], allow_plaintext=True, credentials=ours)
        interceptors.append(IntrospectingAioInterceptor(asking))
    server = grpc.aio.server(interceptors=interceptors, options=SERVER_OPTIONS)
    inventory_pb2_grpc.add_InventoryServiceServicer_to_server(AioShop(), server)
    port = _listen(server, settings)
    await server.start()
    _say_ready(port)
    await asyncio.Event().wait()


def _public_key(settings: dict[str, Any]) -> Any:
    return load_der_public_key(bytes.fromhex(settings["public_key"]))


def _listen(server: Any, settings: dict[str, Any]) -> int:
    if not settings["tls"]:
        return int(server.add_insecure_port("127.0.0.1:0"))
    pair = (Path(settings["key_file"]).read_bytes(), Path(settings["cert_file"]).read_bytes())
    return int(server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair])))


def _say_ready(port: int) -> None:
    print(json.dumps({"port": port}), flush=True)


if __name__ == "__main__":
    main()
