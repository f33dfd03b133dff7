"""Passing on why another service did not answer: the customer learns what that service said, reason included."""

from __future__ import annotations

from typing import Any, Final, NoReturn

import grpc
from grpc import aio

__all__ = ["relay", "relay_aio"]

_DETAILS_KEY: Final = "grpc-status-details-bin"


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
    return tuple((key, value) for key, value in metadata or () if key == _DETAILS_KEY)
