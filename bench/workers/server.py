"""A server under test, in its own process: `python -m bench.workers.server CORES SETTINGS`."""

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
from interceptors.server import AioServerInterceptor, CallPool, ServerInterceptor
from interceptors.serving.listening import SERVER_OPTIONS

__all__ = ["main"]


def main() -> None:
    """Serves until the process is killed."""
    pin(json.loads(sys.argv[1]))
    settings: dict[str, Any] = json.loads(sys.argv[2])
    node = _node(settings) if settings["interceptor"] == "credmesh" else None
    # These objects live as long as the process. Without freezing, every garbage collection would scan them.
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
    elif settings["interceptor"] == "handwritten":
        interceptors.append(HandwrittenInterceptor(_public_key(settings), settings["issuer"]))
    elif settings["interceptor"] == "introspection":
        auth = channel(settings["auth"], allow_plaintext=True)
        credentials = Credentials(ClientSecret("services", settings["client_secret"]), auth)
        introspection = channel(settings["auth"], allow_plaintext=True, credentials=credentials)
        interceptors.append(IntrospectingInterceptor(introspection))
    # `serve` uses a CallPool; a server without credmesh has grpc's usual pool.
    pool = CallPool(settings["threads"]) if node is not None else ThreadPoolExecutor(settings["threads"])
    server = grpc.server(pool, interceptors=interceptors, options=SERVER_OPTIONS)
    inventory_pb2_grpc.add_InventoryServiceServicer_to_server(SyncShop(), server)
    port = _listen(server, settings)
    server.start()
    _send_ready(port)
    threading.Event().wait()


async def _serve_aio(settings: dict[str, Any], node: MeshNode | None) -> None:
    interceptors: list[grpc.aio.ServerInterceptor] = []
    if node is not None:
        interceptors.append(AioServerInterceptor(node))
    elif settings["interceptor"] == "handwritten":
        interceptors.append(HandwrittenAioInterceptor(_public_key(settings), settings["issuer"]))
    elif settings["interceptor"] == "introspection":
        auth = aio_channel(settings["auth"], allow_plaintext=True)
        credentials = AioCredentials(ClientSecret("services", settings["client_secret"]), auth)
        introspection = aio_channel(settings["auth"], allow_plaintext=True, credentials=credentials)
        interceptors.append(IntrospectingAioInterceptor(introspection))
    server = grpc.aio.server(interceptors=interceptors, options=SERVER_OPTIONS)
    inventory_pb2_grpc.add_InventoryServiceServicer_to_server(AioShop(), server)
    port = _listen(server, settings)
    await server.start()
    _send_ready(port)
    await asyncio.Event().wait()


def _public_key(settings: dict[str, Any]) -> Any:
    return load_der_public_key(bytes.fromhex(settings["public_key"]))


def _listen(server: Any, settings: dict[str, Any]) -> int:
    if not settings["tls"]:
        return int(server.add_insecure_port("127.0.0.1:0"))
    pair = (Path(settings["key_file"]).read_bytes(), Path(settings["cert_file"]).read_bytes())
    return int(server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair])))


def _send_ready(port: int) -> None:
    print(json.dumps({"port": port}), flush=True)


if __name__ == "__main__":
    main()
