"""grpc.aio calls that send a stream, told apart from one flaw of grpc.aio.

A server that refuses such a call ends it while requests are still being sent. The write that then fails makes grpc.aio
replace the status that it has just received by INTERNAL, "Internal error from Core" (grpc/grpc#36066): the caller would
never learn that the credential was refused. So the first status is kept.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine, Generator
from typing import Any, TypeVar

import grpc
import grpc.aio

__all__ = ["SteadyStreamStream", "SteadyStreamUnary"]

T = TypeVar("T")


class _Waiting(Exception):
    """A coroutine was not done at once."""


class _Steady:
    """A call whose status does not change any more once it was there."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self._error: grpc.aio.AioRpcError | None = None
        call.add_done_callback(self._ended)

    def __getattr__(self, name: str) -> Any:
        # What grpc's own calls have beyond their public interface, and grpc's wrapper of interceptors relies on.
        return getattr(self._call, name)

    def _ended(self, call: Any) -> None:
        # Here and now: once the loop goes on, the failing write may come first.
        try:
            code = _at_once(call.code())
            if code not in (grpc.StatusCode.OK, grpc.StatusCode.INTERNAL):
                self._error = grpc.aio.AioRpcError(
                    code,
                    _at_once(call.initial_metadata()),
                    _at_once(call.trailing_metadata()),
                    _at_once(call.details()),
                    _at_once(call.debug_error_string()),
                )
        except _Waiting:
            # Another interceptor's call, whose status has to be waited for. It is told as it comes.
            return

    def _first(self, error: grpc.aio.AioRpcError) -> grpc.aio.AioRpcError:
        return self._error if self._error is not None and error.code() is grpc.StatusCode.INTERNAL else error

    async def _replaced(self) -> grpc.aio.AioRpcError | None:
        """What the call ended with, if it says something else by now."""
        return self._error if await self._call.code() is grpc.StatusCode.INTERNAL else None

    async def code(self) -> grpc.StatusCode:
        """See grpc.aio.Call."""
        error = await self._replaced()
        code: grpc.StatusCode = await self._call.code() if error is None else error.code()
        return code

    async def details(self) -> Any:
        """See grpc.aio.Call."""
        error = await self._replaced()
        return await self._call.details() if error is None else error.details()

    async def trailing_metadata(self) -> Any:
        """See grpc.aio.Call."""
        error = await self._replaced()
        return await self._call.trailing_metadata() if error is None else error.trailing_metadata()

    async def debug_error_string(self) -> Any:
        """What gRPC's own calls have."""
        error = await self._replaced()
        return await self._call.debug_error_string() if error is None else error.debug_error_string()

    async def initial_metadata(self) -> Any:
        """See grpc.aio.Call."""
        return await self._call.initial_metadata()

    async def wait_for_connection(self) -> None:
        """See grpc.aio.Call."""
        await self._call.wait_for_connection()

    async def write(self, request: Any) -> None:
        """See grpc.aio.StreamStreamCall."""
        try:
            await self._call.write(request)
        except grpc.aio.AioRpcError as error:
            raise self._first(error) from None

    async def done_writing(self) -> None:
        """See grpc.aio.StreamStreamCall."""
        await self._call.done_writing()

    def time_remaining(self) -> Any:
        """See grpc.aio.RpcContext."""
        return self._call.time_remaining()

    def cancel(self) -> bool:
        """See grpc.aio.RpcContext."""
        return bool(self._call.cancel())

    def cancelled(self) -> bool:
        """See grpc.aio.RpcContext."""
        return bool(self._call.cancelled())

    def done(self) -> bool:
        """See grpc.aio.RpcContext."""
        return bool(self._call.done())

    def add_done_callback(self, callback: Any) -> None:
        """See grpc.aio.RpcContext."""
        self._call.add_done_callback(lambda _: callback(self))


class SteadyStreamUnary(_Steady, grpc.aio.StreamUnaryCall):  # type: ignore[type-arg]
    """One answer to a stream."""

    def __await__(self) -> Generator[Any, None, Any]:
        try:
            return (yield from self._call.__await__())
        except grpc.aio.AioRpcError as error:
            raise self._first(error) from None


class SteadyStreamStream(_Steady, grpc.aio.StreamStreamCall):  # type: ignore[type-arg]
    """A stream of answers to a stream."""

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._read_all()

    async def _read_all(self) -> AsyncIterator[Any]:
        try:
            async for answer in self._call:
                yield answer
        except grpc.aio.AioRpcError as error:
            raise self._first(error) from None

    async def read(self) -> Any:
        """See grpc.aio.StreamStreamCall."""
        try:
            return await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise self._first(error) from None


def _at_once(coroutine: Coroutine[Any, Any, T]) -> T:
    """What a coroutine returns that has nothing to wait for: here, those of a call that is over."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    coroutine.close()
    raise _Waiting
