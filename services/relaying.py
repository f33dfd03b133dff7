"""Passing on why another service did not answer: the customer learns what that service said, reason included."""

from __future__ import annotations

from typing import Any, NoReturn

import grpc
from grpc import aio

from interceptors.error_details import DETAILS_KEY

__all__ = ["relay", "relay_aio"]


def relay(context: grpc.ServicerContext, error: grpc.RpcError) -> NoReturn:
    """Ends the call being served as the call that failed did."""
    if not isinstance(error, grpc.Call):
        raise error
    context.set_trailing_metadata(_details(error.trailing_metadata()))
    context.abort(error.code(), error.details() or "")


async def relay_aio(context: aio.ServicerContext[Any, Any], error: aio.AioRpcError) -> NoReturn:
    """The same for asyncio."""
    await context.abort(error.code(), error.details() or "", _details(error.trailing_metadata()))


def _details(metadata: Any) -> tuple[tuple[str, Any], ...]:
    return tuple((key, value) for key, value in metadata or () if key == DETAILS_KEY)
