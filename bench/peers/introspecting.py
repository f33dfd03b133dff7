"""Token introspection (RFC 7662), as with cookie sessions: for every call, the server asks the auth service."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio

from bench.shop import AUDIENCE, SCOPE
from credmesh.auth.v1 import auth_pb2, auth_pb2_grpc

__all__ = ["IntrospectingAioInterceptor", "IntrospectingInterceptor"]


class IntrospectingInterceptor(grpc.ServerInterceptor):
    """For grpc.server. It asks in the handler's thread, because grpc.server holds a lock in `intercept_service`."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._stub = auth_pb2_grpc.AuthServiceStub(channel)

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler[Any, Any] | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wraps unary handlers; other kinds are not measured."""
        handler: Any = continuation(handler_call_details)
        if handler is None or handler.unary_unary is None:
            return None
        stub, behaviour = self._stub, handler.unary_unary

        def ask(request: Any, context: Any) -> Any:
            answer = stub.Introspect(auth_pb2.IntrospectRequest(token=_token(context)))
            if not _good(answer):
                context.abort(grpc.StatusCode.UNAUTHENTICATED, "not a good credential")
            return behaviour(request, context)

        return grpc.unary_unary_rpc_method_handler(ask, handler.request_deserializer, handler.response_serializer)


class IntrospectingAioInterceptor(grpc.aio.ServerInterceptor):
    """For grpc.aio.server."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub: Any = auth_pb2_grpc.AuthServiceStub(channel)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wraps unary handlers; other kinds are not measured."""
        handler: Any = await continuation(handler_call_details)
        if handler is None or handler.unary_unary is None:
            return None
        stub, behaviour = self._stub, handler.unary_unary

        async def ask(request: Any, context: Any) -> Any:
            answer = await stub.Introspect(auth_pb2.IntrospectRequest(token=_token(context)))
            if not _good(answer):
                await context.abort(grpc.StatusCode.UNAUTHENTICATED, "not a good credential")
            return await behaviour(request, context)

        return grpc.unary_unary_rpc_method_handler(ask, handler.request_deserializer, handler.response_serializer)


def _token(context: Any) -> str:
    return str(dict(context.invocation_metadata()).get("authorization", "")).removeprefix("Bearer ")


def _good(answer: auth_pb2.IntrospectResponse) -> bool:
    return answer.active and AUDIENCE in answer.identity.audiences and SCOPE in answer.identity.scopes
