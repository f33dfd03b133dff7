"""A grpc.aio stream of answers that is begun once more when its credential was refused, as one call to its reader."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio

from interceptors.client.failed_call import CANCELLED, aio_error

__all__ = ["AioRetriedStream"]


class AioRetriedStream(grpc.aio.UnaryStreamCall):  # type: ignore[type-arg]
    """A call with one request and a stream of answers.

    first      the first attempt, under way
    renewable  whether a call that is over was refused for its credential
    again      begins the call once more with a fresh credential; None if there is to be none

    The first attempt counts once something of it was received, or it ends otherwise than refused. Until that is known
    nobody is told that the call is over.
    """

    def __init__(
        self,
        first: Any,
        renewable: Callable[[Any], Awaitable[bool]],
        again: Callable[[], Awaitable[Any]],
    ) -> None:
        self._first = first
        self._renewable = renewable
        self._again = again
        # The attempt that counts, or why there is none.
        self._counts: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._counts.add_done_callback(_heard)
        self._reading = False
        self._deciding: asyncio.Task[None] | None = None
        self._cancelled = False
        self._answers: AsyncIterator[Any] | None = None
        self._callbacks: list[Callable[[Any], None]] = []
        first.add_done_callback(self._first_ended)

    # Its end

    async def code(self) -> grpc.StatusCode:
        """See grpc.aio.Call."""
        code: grpc.StatusCode = await self._of_outcome(lambda call: call.code(), lambda error: error.code())
        return code

    async def details(self) -> str:
        """See grpc.aio.Call."""
        details: str = await self._of_outcome(lambda call: call.details(), lambda error: error.details())
        return details

    async def trailing_metadata(self) -> Any:
        """See grpc.aio.Call."""
        return await self._of_outcome(lambda call: call.trailing_metadata(), lambda error: error.trailing_metadata())

    async def debug_error_string(self) -> Any:
        """What gRPC's own calls have."""
        return await self._of_outcome(lambda call: call.debug_error_string(), lambda error: error.debug_error_string())

    async def initial_metadata(self) -> Any:
        """See grpc.aio.Call."""
        metadata = await self._first.initial_metadata()
        if not self._counts.done() and not self._first.done():
            return metadata
        return await self._of_outcome(lambda call: call.initial_metadata(), lambda error: error.initial_metadata())

    async def wait_for_connection(self) -> None:
        """See grpc.aio.Call."""
        await self._first.wait_for_connection()

    def time_remaining(self) -> float | None:
        """See grpc.aio.RpcContext."""
        remaining: float | None = self._first.time_remaining()
        return remaining

    def done(self) -> bool:
        """See grpc.aio.RpcContext."""
        call = self._outcome()
        return call is not None and (isinstance(call, Exception) or call.done())

    def cancelled(self) -> bool:
        """See grpc.aio.RpcContext."""
        call = self._outcome()
        if isinstance(call, grpc.aio.AioRpcError):
            return self._cancelled and call.code() is grpc.StatusCode.CANCELLED
        return call is not None and not isinstance(call, Exception) and bool(call.cancelled())

    def cancel(self) -> bool:
        """See grpc.aio.RpcContext."""
        call = self._outcome()
        if isinstance(call, Exception):
            return False
        if call is not None:
            return bool(call.cancel())
        self._cancelled = True
        if self._deciding is not None:
            return self._deciding.cancel()
        return bool(self._first.cancel())

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """See grpc.aio.RpcContext."""
        call = self._outcome()
        if call is None:
            self._callbacks.append(callback)
        elif isinstance(call, Exception):
            callback(self)
        else:
            call.add_done_callback(lambda _: callback(self))

    # Its answers

    def __aiter__(self) -> AsyncIterator[Any]:
        if self._answers is None:
            self._answers = self._read_all()
        return self._answers

    async def read(self) -> Any:
        """See grpc.aio.UnaryStreamCall."""
        try:
            return await anext(self.__aiter__())
        except StopAsyncIteration:
            return grpc.aio.EOF

    async def _read_all(self) -> AsyncIterator[Any]:
        self._reading = True
        try:
            async for answer in self._first:
                self._settle(self._first)
                yield answer
        except grpc.aio.AioRpcError:
            if await self._after_reading() is self._first:
                raise
        except asyncio.CancelledError:
            # Reading was given up, or the call was: grpc has cancelled the attempt in either case.
            self._reading = False
            if self._first.done():
                self._first_ended(self._first)
            raise
        call = await self._after_reading()
        if call is not self._first:
            async for answer in call:
                yield answer

    async def _after_reading(self) -> Any:
        """The attempt that counts, now that all of the first one was read."""
        self._reading = False
        if self._outcome() is None and self._deciding is None:
            self._first_ended(self._first)
        return await self._until_decided()

    # Which attempt counts

    def _outcome(self) -> Any:
        """The attempt that counts, the error in its place, or None while that is open."""
        if not self._counts.done():
            return None
        return self._counts.exception() or self._counts.result()

    async def _until_decided(self) -> Any:
        # Shielded: whoever gives up waiting takes nothing from the others.
        try:
            return await asyncio.shield(self._counts)
        except grpc.aio.AioRpcError:
            if self.cancelled():
                raise asyncio.CancelledError from None
            raise

    async def _of_outcome(self, of_call: Callable[[Any], Awaitable[Any]], of_error: Callable[[Any], Any]) -> Any:
        try:
            call = await asyncio.shield(self._counts)
        except grpc.aio.AioRpcError as error:
            return of_error(error)
        return await of_call(call)

    def _first_ended(self, first: Any) -> None:
        # A reader knows whether there was an answer before the end, so while one reads it is for it to decide.
        if self._outcome() is None and self._deciding is None and not self._reading:
            self._deciding = asyncio.get_running_loop().create_task(self._decide(first))
            # A task that is cancelled before its first step settles nothing by itself.
            self._deciding.add_done_callback(lambda _: self._settle(aio_error(CANCELLED)))

    async def _decide(self, first: Any) -> None:
        """The first attempt is over, and nothing of it was received."""
        try:
            again = None
            if not self._cancelled and await self._renewable(first):
                again = await self._again()
            self._settle(first if again is None else again)
        except asyncio.CancelledError:
            self._settle(aio_error(CANCELLED))
        except Exception as error:  # noqa: BLE001 - whoever waits for this call has to hear of it
            self._settle(error)

    def _settle(self, call: Any) -> None:
        """Whatever happens to this attempt is what happened to the call."""
        if self._counts.done():
            return
        if isinstance(call, Exception):
            self._counts.set_exception(call)
        else:
            self._counts.set_result(call)
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            self.add_done_callback(callback)


def _heard(future: asyncio.Future[Any]) -> None:
    """Nobody has to look at a call's outcome."""
    if not future.cancelled():
        future.exception()
