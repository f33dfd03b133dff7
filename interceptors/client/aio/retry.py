"""A grpc.aio stream of responses that is made again with a fresh credential after a refusal; to its reader, one call.

Unary calls: interceptors/client/aio/interceptor.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio

from interceptors.client.failed_call import CANCELLED, aio_error, mark_exception_retrieved

__all__ = ["AioRetriedStream"]


class AioRetriedStream(grpc.aio.UnaryStreamCall):  # type: ignore[type-arg]
    """A call with one request and a stream of responses.

    first          the first attempt, already started
    is_renewable   whether an attempt that has ended was refused for a renewable reason
    make_second    makes the second attempt with a fresh credential; returns None if there is to be none
    outcome_ended  called when the attempt that is the outcome has ended

    The first attempt is the outcome unless it is refused before it returned a response. Until that is known the call is
    not done.
    """

    def __init__(
        self,
        first: Any,
        is_renewable: Callable[[Any], Awaitable[bool]],
        make_second: Callable[[], Awaitable[Any]],
        outcome_ended: Callable[[Any], None],
    ) -> None:
        self._first = first
        self._is_renewable = is_renewable
        self._make_second = make_second
        self._outcome_ended = outcome_ended
        # The attempt that is the outcome, or the error in its place. The caller may never read it.
        self._choice: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._choice.add_done_callback(mark_exception_retrieved)
        self._reading = False
        self._retrying: asyncio.Task[None] | None = None
        self._cancelled = False
        self._responses: AsyncIterator[Any] | None = None
        self._callbacks: list[Callable[[Any], None]] = []
        first.add_done_callback(self._first_ended)

    # grpc.aio.Call

    async def code(self) -> grpc.StatusCode:
        """See grpc.aio.Call."""
        code: grpc.StatusCode = await self._from_outcome(lambda call: call.code(), lambda error: error.code())
        return code

    async def details(self) -> str:
        """See grpc.aio.Call."""
        details: str = await self._from_outcome(lambda call: call.details(), lambda error: error.details())
        return details

    async def trailing_metadata(self) -> Any:
        """See grpc.aio.Call."""
        return await self._from_outcome(lambda call: call.trailing_metadata(), lambda error: error.trailing_metadata())

    async def debug_error_string(self) -> Any:
        """Returns gRPC's description of the error. gRPC's own calls have this method."""
        return await self._from_outcome(
            lambda call: call.debug_error_string(), lambda error: error.debug_error_string()
        )

    async def initial_metadata(self) -> Any:
        """See grpc.aio.Call."""
        metadata = await self._first.initial_metadata()
        if not self._choice.done() and not self._first.done():
            return metadata
        return await self._from_outcome(lambda call: call.initial_metadata(), lambda error: error.initial_metadata())

    async def wait_for_connection(self) -> None:
        """See grpc.aio.Call."""
        await self._first.wait_for_connection()

    def time_remaining(self) -> float | None:
        """See grpc.aio.RpcContext."""
        remaining: float | None = self._first.time_remaining()
        return remaining

    def done(self) -> bool:
        """See grpc.aio.RpcContext."""
        attempt = self._chosen()
        return attempt is not None and (isinstance(attempt, Exception) or attempt.done())

    def cancelled(self) -> bool:
        """See grpc.aio.RpcContext."""
        attempt = self._chosen()
        if isinstance(attempt, grpc.aio.AioRpcError):
            return self._cancelled and attempt.code() is grpc.StatusCode.CANCELLED
        return attempt is not None and not isinstance(attempt, Exception) and bool(attempt.cancelled())

    def cancel(self) -> bool:
        """See grpc.aio.RpcContext."""
        attempt = self._chosen()
        if isinstance(attempt, Exception):
            return False
        if attempt is not None:
            return bool(attempt.cancel())
        self._cancelled = True
        if self._retrying is not None:
            return self._retrying.cancel()
        return bool(self._first.cancel())

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """See grpc.aio.RpcContext."""
        attempt = self._chosen()
        if attempt is None:
            self._callbacks.append(callback)
        elif isinstance(attempt, Exception):
            callback(self)
        else:
            attempt.add_done_callback(lambda _: callback(self))

    # grpc.aio.UnaryStreamCall

    def __aiter__(self) -> AsyncIterator[Any]:
        if self._responses is None:
            self._responses = self._read_all()
        return self._responses

    async def read(self) -> Any:
        """See grpc.aio.UnaryStreamCall."""
        try:
            return await anext(self.__aiter__())
        except StopAsyncIteration:
            return grpc.aio.EOF

    async def _read_all(self) -> AsyncIterator[Any]:
        self._reading = True
        try:
            async for response in self._first:
                self._choose(self._first)
                yield response
        except grpc.aio.AioRpcError:
            if await self._await_choice_after_reading() is self._first:
                raise
        except asyncio.CancelledError:
            # The reader's task or the call was cancelled. In either case grpc.aio has cancelled the attempt.
            self._reading = False
            if self._first.done():
                self._first_ended(self._first)
            raise
        attempt = await self._await_choice_after_reading()
        if attempt is not self._first:
            async for response in attempt:
                yield response

    async def _await_choice_after_reading(self) -> Any:
        """Returns the attempt that is the outcome, once the first attempt has been read to its end."""
        self._reading = False
        if self._chosen() is None and self._retrying is None:
            self._first_ended(self._first)
        return await self._await_choice()

    # From the first attempt to the outcome

    def _chosen(self) -> Any:
        """Returns the attempt that is the outcome, the error in its place, or None if that is not known yet."""
        if not self._choice.done():
            return None
        return self._choice.exception() or self._choice.result()

    async def _await_choice(self) -> Any:
        # Shielded: the choice is shared, and a task that stops waiting must not cancel it.
        try:
            return await asyncio.shield(self._choice)
        except grpc.aio.AioRpcError:
            if self.cancelled():
                raise asyncio.CancelledError from None
            raise

    async def _from_outcome(self, of_attempt: Callable[[Any], Awaitable[Any]], of_error: Callable[[Any], Any]) -> Any:
        try:
            attempt = await asyncio.shield(self._choice)
        except grpc.aio.AioRpcError as error:
            return of_error(error)
        return await of_attempt(attempt)

    def _first_ended(self, first: Any) -> None:
        # Only a reader knows whether a response came before the end. While there is one, it decides on a retry.
        if self._chosen() is None and self._retrying is None and not self._reading:
            self._retrying = asyncio.get_running_loop().create_task(self._retry_or_choose_first(first))
            # A task that is cancelled before its first step runs none of its own code.
            self._retrying.add_done_callback(lambda _: self._choose(aio_error(CANCELLED)))

    async def _retry_or_choose_first(self, first: Any) -> None:
        """Runs when the first attempt has ended without a response."""
        try:
            second = None
            if not self._cancelled and await self._is_renewable(first):
                second = await self._make_second()
            self._choose(first if second is None else second)
        except asyncio.CancelledError:
            self._choose(aio_error(CANCELLED))
        except Exception as error:  # noqa: BLE001 - the outcome for the reader, who waits for one
            self._choose(error)

    def _choose(self, attempt: Any) -> None:
        """Makes an attempt, or the error in its place, the outcome of the call. Later choices have no effect."""
        if self._choice.done():
            return
        if isinstance(attempt, Exception):
            self._choice.set_exception(attempt)
        else:
            self._choice.set_result(attempt)
            attempt.add_done_callback(self._outcome_ended)
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            self.add_done_callback(callback)
