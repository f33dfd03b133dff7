"""The method handlers of gRPC, whatever their kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc

__all__ = ["behaviour_of", "like"]


def behaviour_of(handler: Any) -> Callable[..., Any]:
    """The function that serves the method."""
    found: Callable[..., Any] = (
        handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    )
    return found


def like(handler: Any, behaviour: Callable[..., Any]) -> grpc.RpcMethodHandler[Any, Any]:
    """A handler of the same kind and (de)serializers, served by another function."""
    make = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[handler.request_streaming, handler.response_streaming]
    return make(behaviour, handler.request_deserializer, handler.response_serializer)
