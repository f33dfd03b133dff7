"""Attaching credentials to the four kinds of grpc.aio calls."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, Protocol

import grpc
import grpc.aio

from interceptors.client.aio.retry import AioRetriedStream
from interceptors.client.aio.streams import SteadyStreamStream, SteadyStreamUnary
from interceptors.client.attachment import Metadata, aio_details, own_metadata
from interceptors.client.failed_call import OUT_OF_TIME, aio_error
from interceptors.client.renewal import HeldCredential, NoCredential
from interceptors.errors import reason_of

__all__ = ["AioSupply", "attaching_interceptors", "wait_for"]

Continuation = Callable[[Any, Any], Awaitable[Any]]


class AioSupply(Protocol):
    """Where the interceptors take credentials from."""

    def current(self) -> HeldCredential | None:
        """What can be sent now, without waiting."""
        ...

    async def obtain(self, stale: HeldCredential | None, *, refused: bool = False) -> HeldCredential | None:
        """Something better than `stale`; see AioRenewer."""
        ...

    def stream_began(self) -> None:
        """A stream was opened with a credential from here."""
        ...

    def stream_ended(self) -> None:
        """It is over."""
        ...


async def wait_for(
    supply: AioSupply, stale: HeldCredential | None, timeout: float | None, *, refused: bool = False
) -> HeldCredential | None:
    """Waits for a credential, at most `timeout` seconds. AioRpcError if there is none; None as AioSupply.obtain."""
    try:
        async with asyncio.timeout(timeout):
            return await supply.obtain(stale, refused=refused)
    except NoCredential as unobtained:
        raise aio_error(unobtained.failure) from None
    except TimeoutError:
        raise aio_error(OUT_OF_TIME) from None


def attaching_interceptors(supply: AioSupply) -> tuple[grpc.aio.ClientInterceptor, ...]:
    """One interceptor per kind of call: grpc.aio registers an object for one kind only."""
    return (_UnaryUnary(supply), _UnaryStream(supply), _StreamUnary(supply), _StreamStream(supply))


class _Begun(NamedTuple):
    """A call that is about to be made: its details as its maker gave them, and as they are sent with a credential."""

    details: grpc.aio.ClientCallDetails
    own: Metadata
    started: float
    held: HeldCredential
    attached: grpc.aio.ClientCallDetails


class _Attaching:
    """What the four have in common.

    A call refused for a renewable reason is made once more, if it has one request: a stream of requests may not be
    there any more, and some of it may have been acted upon. A call waits for a credential only where no good one is in
    hand, and never longer than its own timeout.
    """

    def __init__(self, supply: AioSupply) -> None:
        self._supply = supply

    async def _begin(self, details: grpc.aio.ClientCallDetails) -> _Begun:
        started = time.monotonic()
        own = own_metadata(details.metadata)
        timeout = details.timeout
        held = self._supply.current()
        if held is None:
            held = await wait_for(self._supply, None, timeout)
            timeout = _remaining(timeout, started)
        if held is None:
            raise TypeError("a supply gives a credential unless a refusal is to be followed")
        return _Begun(details, own, started, held, aio_details(details, own, held.metadata, timeout))

    async def _again(self, begun: _Begun, continuation: Continuation, request: Any) -> Any:
        """Makes the call once more; None if there is to be no fresh credential."""
        timeout = begun.details.timeout
        held = await wait_for(self._supply, begun.held, _remaining(timeout, begun.started), refused=True)
        if held is None:
            return None
        remaining = _remaining(timeout, begun.started)
        return await continuation(aio_details(begun.details, begun.own, held.metadata, remaining), request)

    async def _counted(self, continuation: Continuation, details: Any, request: Any) -> Any:
        """Begins a call; while it is open, it keeps the session alive."""
        call = await continuation(details, request)
        self._supply.stream_began()
        call.add_done_callback(lambda _: self._supply.stream_ended())
        return call


class _UnaryUnary(_Attaching, grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        begun = await self._begin(client_call_details)
        call = await continuation(begun.attached, request)
        try:
            # Until its end nobody can say whether the call was refused. Its maker can do nothing with it before, except
            # cancel it, which cancels what is awaited here.
            await call
        except grpc.aio.AioRpcError as error:
            if _is_renewable(error.code(), error.trailing_metadata()):
                return await self._again(begun, continuation, request) or call
        return call


class _UnaryStream(_Attaching, grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        begun = await self._begin(client_call_details)
        counted = functools.partial(self._counted, continuation)
        first = await counted(begun.attached, request)
        return AioRetriedStream(first, _was_refused, functools.partial(self._again, begun, counted, request))


class _StreamUnary(_Attaching, grpc.aio.StreamUnaryClientInterceptor):
    async def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        begun = await self._begin(client_call_details)
        return SteadyStreamUnary(await self._counted(continuation, begun.attached, request_iterator))


class _StreamStream(_Attaching, grpc.aio.StreamStreamClientInterceptor):
    async def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        begun = await self._begin(client_call_details)
        return SteadyStreamStream(await self._counted(continuation, begun.attached, request_iterator))


async def _was_refused(call: Any) -> bool:
    """Whether a call that is over was refused for a reason that a fresh credential may mend."""
    return _is_renewable(await call.code(), await call.trailing_metadata())


def _is_renewable(code: grpc.StatusCode, metadata: Any) -> bool:
    if code is not grpc.StatusCode.UNAUTHENTICATED:
        return False
    reason = reason_of(metadata)
    return reason is not None and reason.renewable


def _remaining(timeout: float | None, started: float) -> float | None:
    """What is left of a call's timeout. At nothing left grpc ends the call at once, as its deadline demands."""
    return None if timeout is None else max(0.0, timeout - (time.monotonic() - started))
