"""grpc.aio calls that send a stream, without a flaw of grpc.aio that loses the reason of a refusal.

A server may refuse such a call while requests are still being sent. The next write then fails, and grpc.aio replaces
the status that it has received by INTERNAL, "Internal error from Core" (grpc/grpc#36066). The caller would never learn
that the credential was refused. So these calls keep the first status.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from typing import Any, TypeVar

import grpc
import grpc.aio

__all__ = ["StatusKeepingStreamStream", "StatusKeepingStreamUnary", "WouldWaitError", "result_without_waiting"]

T = TypeVar("T")


class WouldWaitError(Exception):
    """Raised when a coroutine cannot return without waiting."""


class _StatusKeeping:
    """A call that keeps the first status that it received.

    check_error  called with each error before its caller gets it. The call's done callbacks do not suffice: if a write
                 fails before the status arrives, they are told INTERNAL, and the caller the status
    """

    def __init__(self, call: Any, check_error: Callable[[grpc.aio.AioRpcError], None]) -> None:
        self._call = call
        self._check_error = check_error
        self._first_error: grpc.aio.AioRpcError | None = None
        call.add_done_callback(self._keep_status)

    def __getattr__(self, name: str) -> Any:
        # gRPC's wrapper of interceptors uses methods of gRPC's own calls that are not public.
        return getattr(self._call, name)

    def _keep_status(self, call: Any) -> None:
        # Reads the status without waiting: once the event loop goes on, the failing write may replace it.
        try:
            code = result_without_waiting(call.code())
            if code not in (grpc.StatusCode.OK, grpc.StatusCode.INTERNAL):
                self._first_error = grpc.aio.AioRpcError(
                    code,
                    result_without_waiting(call.initial_metadata()),
                    result_without_waiting(call.trailing_metadata()),
                    result_without_waiting(call.details()),
                    result_without_waiting(call.debug_error_string()),
                )
        except WouldWaitError:
            # The call is that of another interceptor, and its status is not there yet. It is passed on as it comes.
            return

    def _original(self, error: grpc.aio.AioRpcError) -> grpc.aio.AioRpcError:
        """Returns the first error in place of the INTERNAL that replaced it."""
        first = self._first_error
        original = first if first is not None and error.code() is grpc.StatusCode.INTERNAL else error
        self._check_error(original)
        return original

    async def _replaced_error(self) -> grpc.aio.AioRpcError | None:
        """Returns the first error if the call's status is INTERNAL by now; otherwise None."""
        return self._first_error if await self._call.code() is grpc.StatusCode.INTERNAL else None

    async def code(self) -> grpc.StatusCode:
        """See grpc.aio.Call."""
        error = await self._replaced_error()
        code: grpc.StatusCode = await self._call.code() if error is None else error.code()
        return code

    async def details(self) -> Any:
        """See grpc.aio.Call."""
        error = await self._replaced_error()
        return await self._call.details() if error is None else error.details()

    async def trailing_metadata(self) -> Any:
        """See grpc.aio.Call."""
        error = await self._replaced_error()
        return await self._call.trailing_metadata() if error is None else error.trailing_metadata()

    async def debug_error_string(self) -> Any:
        """Returns gRPC's description of the error. gRPC's own calls have this method."""
        error = await self._replaced_error()
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
            raise self._original(error) from None

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


class StatusKeepingStreamUnary(_StatusKeeping, grpc.aio.StreamUnaryCall):  # type: ignore[type-arg]
    """A call with a stream of requests and one response."""

    def __await__(self) -> Generator[Any, None, Any]:
        try:
            return (yield from self._call.__await__())
        except grpc.aio.AioRpcError as error:
            raise self._original(error) from None


class StatusKeepingStreamStream(_StatusKeeping, grpc.aio.StreamStreamCall):  # type: ignore[type-arg]
    """A call with a stream of requests and a stream of responses."""

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._read_all()

    async def _read_all(self) -> AsyncIterator[Any]:
        try:
            async for response in self._call:
                yield response
        except grpc.aio.AioRpcError as error:
            raise self._original(error) from None

    async def read(self) -> Any:
        """See grpc.aio.StreamStreamCall."""
        try:
            return await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise self._original(error) from None


def result_without_waiting(coroutine: Coroutine[Any, Any, T]) -> T:
    """Returns the result of a coroutine that has nothing to wait for, as those of a call that has ended."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    coroutine.close()
    raise WouldWaitError
