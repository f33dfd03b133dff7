"""Attaches credentials to grpc.aio calls of the four kinds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import grpc.aio

from interceptors.backoff import Backoff
from interceptors.client.aio.retry import AioRetriedStream
from interceptors.client.aio.streams import (
    StatusKeepingStreamStream,
    StatusKeepingStreamUnary,
    WouldWaitError,
    result_without_waiting,
)
from interceptors.client.attachment import aio_details, caller_metadata
from interceptors.client.failed_call import TIMED_OUT, aio_error
from interceptors.client.renewal import HeldCredential, NoCredential
from interceptors.client.retry_rules import is_renewable, remaining_seconds
from interceptors.client.supply import FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS, AioSupply

__all__ = ["attaching_interceptors", "obtain_credential", "wait_for_credential"]

Continuation = Callable[[Any, Any], Awaitable[Any]]


async def wait_for_credential(
    supply: AioSupply, future: asyncio.Future[HeldCredential], timeout: float | None
) -> HeldCredential:
    """Waits for the outcome of a renewal, at most `timeout` seconds. AioRpcError if there is no credential by then."""
    with _failures_of_calls():
        async with asyncio.timeout(timeout):
            # Shielded: the renewal is shared, and a call that stops waiting must not cancel it.
            held = await asyncio.shield(future)
    supply.mark_used()
    return held


async def obtain_credential(
    supply: AioSupply, timeout: float | None, *, wait_for_ready: bool | None = None
) -> HeldCredential:
    """Waits for a credential where `current` returned None. AioRpcError if there is none.

    wait_for_ready: whether to wait for an auth service that cannot be reached, as gRPC does for the call's own server.
    """
    backoff = Backoff(FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS)
    with _failures_of_calls():
        async with asyncio.timeout(timeout):
            while True:
                try:
                    held = await asyncio.shield(supply.obtain())
                    break
                except NoCredential as error:
                    if not wait_for_ready or not error.failure.unreachable:
                        raise
                await asyncio.sleep(backoff.next_delay())
    supply.mark_used()
    return held


@contextmanager
def _failures_of_calls() -> Iterator[None]:
    """Turns the failures of a wait for a credential into AioRpcErrors."""
    try:
        yield
    except NoCredential as error:
        raise aio_error(error.failure) from None
    except TimeoutError:
        raise aio_error(TIMED_OUT) from None


def attaching_interceptors(supply: AioSupply) -> tuple[grpc.aio.ClientInterceptor, ...]:
    """Returns one interceptor per kind of call, since grpc.aio registers each interceptor for one kind only.

    They attach a credential to each call, and repeat a call that was refused for a renewable reason, once. A call with
    a stream of requests is never repeated: its requests may be gone, and the server may have acted on some of them. If
    it is refused, the next call takes a new credential. A call waits for a credential only if none can be sent now, and
    never longer than its own timeout.
    """
    return (_UnaryUnary(supply), _UnaryStream(supply), _StreamUnary(supply), _StreamStream(supply))


class _Attempts:
    """The attempts at one call. Raises ValueError if the caller's metadata holds a credential."""

    __slots__ = ("_continuation", "_details", "_held", "_metadata", "_request", "_started", "_supply")

    _held: HeldCredential

    def __init__(
        self, supply: AioSupply, continuation: Continuation, details: grpc.aio.ClientCallDetails, request: Any
    ) -> None:
        self._started = time.monotonic()
        self._supply = supply
        self._continuation = continuation
        self._details = details
        self._metadata = caller_metadata(details.metadata)
        self._request = request

    async def first(self) -> Any:
        """Makes the first attempt, once there is a credential. AioRpcError if there is none."""
        timeout = self._details.timeout
        held = self._supply.current()
        if held is None:
            held = await obtain_credential(self._supply, timeout, wait_for_ready=self._details.wait_for_ready)
            timeout = remaining_seconds(timeout, self._started)
        self._held = held
        return await self._make(held, timeout)

    async def second(self) -> Any:
        """Makes the second attempt, in the time that is left; None if there is to be none."""
        future = self._supply.replace(self._held)
        if future is None:
            return None
        fresh = await wait_for_credential(self._supply, future, self._remaining())
        self._held = fresh
        return await self._make(fresh, self._remaining())

    def outcome_ended(self, call: Any) -> None:
        """A done callback of a call that is not repeated (any more); see `check_error`.

        It runs before the caller's task, which may make its next call.
        """
        try:
            code, trailing = result_without_waiting(call.code()), result_without_waiting(call.trailing_metadata())
        except WouldWaitError:
            return  # the call is that of another interceptor, and its status is not there yet
        self._mark_if_refused(code, trailing)

    def check_error(self, error: grpc.aio.AioRpcError) -> None:
        """Has the next call take a new credential, if a call that is not repeated was refused."""
        self._mark_if_refused(error.code(), error.trailing_metadata())

    def _mark_if_refused(self, code: grpc.StatusCode, trailing_metadata: Any) -> None:
        if is_renewable(code, trailing_metadata):
            self._supply.mark_refused(self._held)

    def _remaining(self) -> float | None:
        return remaining_seconds(self._details.timeout, self._started)

    async def _make(self, held: HeldCredential, timeout: float | None) -> Any:
        details = aio_details(self._details, self._metadata + held.metadata, timeout)
        return await self._continuation(details, self._request)


class _Attaching:
    """The part that the four interceptors share."""

    def __init__(self, supply: AioSupply) -> None:
        self._supply = supply

    def _counted(self, continuation: Continuation) -> Continuation:
        """Returns a continuation whose calls count as open streams, which keep the session alive."""

        async def begin(details: Any, request: Any) -> Any:
            call = await continuation(details, request)
            if isinstance(call, grpc.aio.Call):  # another library's interceptor may return only what its caller awaits
                self._supply.stream_began()
                call.add_done_callback(lambda _: self._supply.stream_ended())
            return call

        return begin


class _UnaryUnary(_Attaching, grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        attempts = _Attempts(self._supply, continuation, client_call_details, request)
        call = await attempts.first()
        try:
            # Whether the call was refused is known at its end. Until then its caller can only cancel it, which cancels
            # this await.
            await call
        except grpc.aio.AioRpcError as error:
            if is_renewable(error.code(), error.trailing_metadata()):
                return await attempts.second() or call
        return call


class _UnaryStream(_Attaching, grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        attempts = _Attempts(self._supply, self._counted(continuation), client_call_details, request)
        return AioRetriedStream(await attempts.first(), _was_refused, attempts.second, attempts.outcome_ended)


class _StreamUnary(_Attaching, grpc.aio.StreamUnaryClientInterceptor):
    async def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        attempts = _Attempts(self._supply, self._counted(continuation), client_call_details, request_iterator)
        call = await attempts.first()
        if not isinstance(call, grpc.aio.Call):
            return call
        call.add_done_callback(attempts.outcome_ended)
        return StatusKeepingStreamUnary(call, attempts.check_error)


class _StreamStream(_Attaching, grpc.aio.StreamStreamClientInterceptor):
    async def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        attempts = _Attempts(self._supply, self._counted(continuation), client_call_details, request_iterator)
        call = await attempts.first()
        call.add_done_callback(attempts.outcome_ended)
        return StatusKeepingStreamStream(call, attempts.check_error)


async def _was_refused(call: Any) -> bool:
    """Whether a call that has ended was refused for a renewable reason."""
    return is_renewable(await call.code(), await call.trailing_metadata())
