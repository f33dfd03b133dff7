"""Answering a call with the status of another call that its handler made, and that failed.

So a caller learns the reason for which a service behind the called one refused it.
"""

from __future__ import annotations

from typing import Any, NoReturn

import grpc
import grpc.aio

from interceptors.error_details import DETAILS_KEY

__all__ = ["relay_status", "relay_status_aio"]


def relay_status(context: grpc.ServicerContext, error: grpc.RpcError) -> NoReturn:
    """Ends the call that is being served with the status, message and reason of a failed call.

    try:
        reserved = inventory.Reserve(request)
    except grpc.RpcError as error:
        relay_status(context, error)
    """
    if not isinstance(error, grpc.Call):
        raise error
    context.set_trailing_metadata(_error_details(error.trailing_metadata()))
    context.abort(error.code(), error.details() or "")


async def relay_status_aio(context: grpc.aio.ServicerContext[Any, Any], error: grpc.aio.AioRpcError) -> NoReturn:
    """As `relay_status`, for asyncio; to be awaited."""
    await context.abort(error.code(), error.details() or "", _error_details(error.trailing_metadata()))


def _error_details(metadata: Any) -> tuple[tuple[str, Any], ...]:
    return tuple((key, value) for key, value in metadata or () if key == DETAILS_KEY)
