"""The service of the test bed's nodes: a plain and a strict method, and a stream of either. Sync and aio.

Every answer is JSON with the node's id, its clocks and the caller's subject: {"id", "mono", "wall", "who"}. The
service's descriptor is built here and not compiled from a .proto file, because only the test bed uses it.
"""

from __future__ import annotations

import asyncio
import functools
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Final

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.wrappers_pb2 import StringValue

from credmesh.policy.v1 import policy_pb2
from interceptors import MeshNode, current_caller

__all__ = ["AUDIENCE", "SCOPE", "SERVICE", "aio_handlers", "load", "path", "sync_handlers"]

SERVICE: Final = "credmesh.chaos.v1.Node"
AUDIENCE: Final = "chaos"
SCOPE: Final = "chaos.use"

_FILE: Final = "credmesh/chaos/v1/node.proto"
_METHODS: Final = {"Plain": False, "Strict": False, "Stream": True, "StrictStream": True}
"""By method: whether the server streams."""
_MESSAGE_INTERVAL_SECONDS: Final = 0.2


def path(method: str) -> str:
    """The method's path in gRPC."""
    return f"/{SERVICE}/{method}"


@functools.cache
def load(freshness: float) -> None:
    """Adds the service to the default descriptor pool, where the policy finds its rules. Has an effect once per
    process.

    freshness: seconds, in the rules of the strict methods
    """
    file = descriptor_pb2.FileDescriptorProto(name=_FILE, package="credmesh.chaos.v1", syntax="proto3")
    file.dependency.extend(["credmesh/policy/v1/policy.proto", "google/protobuf/wrappers.proto"])
    service = file.service.add(name="Node")
    service.options.Extensions[policy_pb2.audience] = AUDIENCE
    for name, streams in _METHODS.items():
        method = service.method.add(
            name=name,
            input_type=".google.protobuf.StringValue",
            output_type=".google.protobuf.StringValue",
            server_streaming=streams,
        )
        rule = policy_pb2.Rule(scopes=[SCOPE])
        if name.startswith("Strict"):
            rule.freshness = f"{freshness:g}s"
        method.options.Extensions[policy_pb2.rule].CopyFrom(rule)
    descriptor_pool.Default().Add(file)


def sync_handlers(node: MeshNode, stopping: threading.Event) -> grpc.GenericRpcHandler:
    """The handlers for `grpc.server`."""

    def unary(_request: StringValue, _context: grpc.ServicerContext) -> StringValue:
        return _stamp(node)

    def stream(_request: StringValue, context: grpc.ServicerContext) -> Iterator[StringValue]:
        while context.is_active() and not stopping.wait(_MESSAGE_INTERVAL_SECONDS):
            yield _stamp(node)

    return _handlers(unary, stream)


def aio_handlers(node: MeshNode, stopping: threading.Event) -> grpc.GenericRpcHandler:
    """The handlers for `grpc.aio.server`."""

    async def unary(_request: StringValue, _context: Any) -> StringValue:
        return _stamp(node)

    async def stream(_request: StringValue, _context: Any) -> AsyncIterator[StringValue]:
        while not stopping.is_set():
            await asyncio.sleep(_MESSAGE_INTERVAL_SECONDS)
            yield _stamp(node)

    return _handlers(unary, stream)


def _stamp(node: MeshNode) -> StringValue:
    stamp = {"id": node.id, "mono": time.monotonic(), "wall": time.time(), "who": current_caller().subject}
    return StringValue(value=json.dumps(stamp))


def _handlers(unary: Callable[..., Any], stream: Callable[..., Any]) -> grpc.GenericRpcHandler:
    handlers = {}
    for name, streams in _METHODS.items():
        constructor: Any = grpc.unary_stream_rpc_method_handler if streams else grpc.unary_unary_rpc_method_handler
        handlers[name] = constructor(
            stream if streams else unary,
            request_deserializer=StringValue.FromString,
            response_serializer=StringValue.SerializeToString,
        )
    return grpc.method_handlers_generic_handler(SERVICE, handlers)
