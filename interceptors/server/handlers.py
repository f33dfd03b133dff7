"""gRPC method handlers of all four kinds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc

__all__ = ["behaviour_of", "handler_like"]


def behaviour_of(handler: Any) -> Callable[..., Any]:
    """Returns the function that serves the method."""
    behaviour: Callable[..., Any] = (
        handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    )
    return behaviour


def handler_like(handler: Any, behaviour: Callable[..., Any]) -> grpc.RpcMethodHandler[Any, Any]:
    """Returns a handler of the same kind, with the same serializers, that is served by another function."""
    make_handler = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[handler.request_streaming, handler.response_streaming]
    return make_handler(behaviour, handler.request_deserializer, handler.response_serializer)
