"""The interceptor that people write by hand: PyJWT's `decode` for every call.

It checks signature, issuer, audience, times and scope, as ours does. It has neither revocation nor rotation.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
import jwt

from authsvc.keys.algorithms import DEFAULT_ALGORITHM
from bench.shop import AUDIENCE, SCOPE

__all__ = ["HandwrittenAioInterceptor", "HandwrittenInterceptor"]


class _Checker:
    def __init__(self, public_key: Any, issuer: str) -> None:
        self._public_key = public_key
        self._issuer = issuer

    def refuses(self, details: grpc.HandlerCallDetails) -> bool:
        """Whether the call must be refused."""
        value = dict(details.invocation_metadata).get("authorization", "")
        try:
            claims = jwt.decode(
                str(value).removeprefix("Bearer "),
                self._public_key,
                algorithms=[DEFAULT_ALGORITHM],
                audience=AUDIENCE,
                issuer=self._issuer,
            )
        except jwt.InvalidTokenError:
            return True
        return SCOPE not in claims.get("scope", "").split()


class HandwrittenInterceptor(grpc.ServerInterceptor):
    """For grpc.server."""

    def __init__(self, public_key: Any, issuer: str) -> None:
        self._checker = _Checker(public_key, issuer)
        self._refuse: grpc.RpcMethodHandler[Any, Any] = grpc.unary_unary_rpc_method_handler(
            lambda _, context: context.abort(grpc.StatusCode.UNAUTHENTICATED, "invalid token")
        )

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler[Any, Any] | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Decides, then lets the call in or answers it."""
        return self._refuse if self._checker.refuses(handler_call_details) else continuation(handler_call_details)


class HandwrittenAioInterceptor(grpc.aio.ServerInterceptor):
    """For grpc.aio.server."""

    def __init__(self, public_key: Any, issuer: str) -> None:
        self._checker = _Checker(public_key, issuer)
        self._refuse: grpc.RpcMethodHandler[Any, Any] = grpc.unary_unary_rpc_method_handler(_refuse)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Decides, then lets the call in or answers it."""
        if self._checker.refuses(handler_call_details):
            return self._refuse
        return await continuation(handler_call_details)


async def _refuse(_: Any, context: Any) -> None:
    await context.abort(grpc.StatusCode.UNAUTHENTICATED, "invalid token")
