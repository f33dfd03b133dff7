"""gRPC method handlers of all four kinds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc

from interceptors.errors import Reason, Refusal

__all__ = ["behaviour_of", "request_parser", "wrapping_handler"]


def behaviour_of(handler: Any) -> Callable[..., Any]:
    """Returns the function that serves the method."""
    behaviour: Callable[..., Any] = (
        handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    )
    return behaviour


def wrapping_handler(handler: Any, behaviour: Callable[..., Any]) -> grpc.RpcMethodHandler[Any, Any]:
    """Returns a handler of the same kind that is served by another function, which gets requests unparsed, as bytes."""
    make_handler = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[handler.request_streaming, handler.response_streaming]
    return make_handler(behaviour, None, handler.response_serializer)


def request_parser(handler: Any) -> Callable[[bytes], Any]:
    """Returns the function that parses a request of the method. It raises Refusal REQUEST_MALFORMED.

    Requests are parsed only after the credential is verified, so that the bytes of a stranger reach no parser.
    """
    deserialize = handler.request_deserializer
    if deserialize is None:
        return _unparsed

    def parse(request: bytes) -> Any:
        try:
            return deserialize(request)
        except Exception as error:  # noqa: BLE001 - a parser's own error; its text may quote the request
            raise Refusal(Reason.REQUEST_MALFORMED, f"{type(error).__name__} for {len(request)} bytes") from None

    return parse


def _unparsed(request: bytes) -> bytes:
    return request
