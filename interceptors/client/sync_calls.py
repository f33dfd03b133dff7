"""Attaching credentials to the four kinds of sync calls."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Protocol

import grpc

from interceptors.client.attach import details_with
from interceptors.client.failed import OUT_OF_TIME, FailedCall
from interceptors.client.flow import Held, Unobtained
from interceptors.client.retried import RetriedCall, is_renewable
from interceptors.client.retried_stream import RetriedStream

__all__ = ["AttachingInterceptor", "Supply", "wait_for"]

Continuation = Callable[[Any, Any], Any]


class Supply(Protocol):
    """Where the interceptor takes credentials from."""

    def current(self) -> Held | None:
        """What can be sent now, without waiting."""
        ...

    def obtain(self, stale: Held | None, *, refused: bool = False) -> Future[Held] | None:
        """Something better than `stale`; see Renewer."""
        ...

    def used(self) -> None:
        """What `obtain` gave is sent."""
        ...

    def stream_began(self) -> None:
        """A stream was opened with a credential from here."""
        ...

    def stream_ended(self) -> None:
        """It is over."""
        ...


def wait_for(supply: Supply, future: Future[Held] | None, timeout: float | None) -> Held:
    """Waits for a credential, at most `timeout` seconds. FailedCall if there is none."""
    if future is None:
        raise TypeError("a supply gives a future unless a refusal is to be followed")
    try:
        held = future.result(timeout)
    except Unobtained as unobtained:
        raise FailedCall(unobtained.failure) from None
    except TimeoutError:
        raise FailedCall(OUT_OF_TIME) from None
    supply.used()
    return held


class AttachingInterceptor(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Attaches a credential to each call. Refused for a renewable reason, a call with one request is made once more.

    A stream of requests is never replayed: it may not be there any more, and some of it may have been acted upon. A
    call waits only where no good credential is in hand, and never longer than its own timeout.
    """

    def __init__(self, supply: Supply) -> None:
        self._supply = supply

    def intercept_unary_unary(self, continuation: Continuation, client_call_details: Any, request: Any) -> Any:
        """See grpc.UnaryUnaryClientInterceptor."""
        started = time.monotonic()
        try:
            held, details = self._attach(client_call_details, started)
        except FailedCall as failed:
            return failed
        call = continuation(details, request)
        if call.done() and (call.cancelled() or call.exception() is None or not is_renewable(call)):
            return call
        # It was refused, or its caller asked for a future: then it is not known yet, and nobody may be waiting here.
        return RetriedCall(call, *self._retry(continuation, client_call_details, request, held, started))

    def intercept_unary_stream(self, continuation: Continuation, client_call_details: Any, request: Any) -> Any:
        """See grpc.UnaryStreamClientInterceptor."""
        started = time.monotonic()
        try:
            held, details = self._attach(client_call_details, started)
        except FailedCall as failed:
            return failed
        begin = self._counted(continuation)
        call = begin(details, request)
        return RetriedStream(call, *self._retry(begin, client_call_details, request, held, started))

    def intercept_stream_unary(
        self, continuation: Continuation, client_call_details: Any, request_iterator: Any
    ) -> Any:
        """See grpc.StreamUnaryClientInterceptor."""
        return self._once(continuation, client_call_details, request_iterator)

    def intercept_stream_stream(
        self, continuation: Continuation, client_call_details: Any, request_iterator: Any
    ) -> Any:
        """See grpc.StreamStreamClientInterceptor."""
        return self._once(continuation, client_call_details, request_iterator)

    def _once(self, continuation: Continuation, details: Any, requests: Any) -> Any:
        try:
            _, attached = self._attach(details, time.monotonic())
        except FailedCall as failed:
            return failed
        return self._counted(continuation)(attached, requests)

    def _attach(self, details: Any, started: float) -> tuple[Held, Any]:
        held = self._supply.current()
        if held is not None:
            return held, details_with(details, held.metadata, details.timeout)
        held = wait_for(self._supply, self._supply.obtain(None), details.timeout)
        return held, self._details(details, held, started)

    def _details(self, details: Any, held: Held, started: float) -> Any:
        """The details for a call that begins later than its maker's clock did."""
        return details_with(details, held.metadata, _remaining(details.timeout, started))

    def _retry(
        self, continuation: Continuation, details: Any, request: Any, held: Held, started: float
    ) -> tuple[Callable[[], Future[Held] | None], Callable[[Held], Any], float | None]:
        """How a call under way asks for a fresh credential, how it is made again with it, and until when."""

        def again(fresh: Held) -> Any:
            self._supply.used()
            return continuation(self._details(details, fresh, started), request)

        deadline = None if details.timeout is None else started + details.timeout
        return functools.partial(self._supply.obtain, held, refused=True), again, deadline

    def _counted(self, continuation: Continuation) -> Continuation:
        """The same continuation; while its call is open, a stream keeps the session alive."""

        def begin(details: Any, request: Any) -> Any:
            self._supply.stream_began()
            try:
                call = continuation(details, request)
            except BaseException:
                self._supply.stream_ended()
                raise
            # A call without a future's or stream's callbacks was made blocking, and is over.
            if call.done() or not call.add_callback(functools.partial(self._supply.stream_ended)):
                self._supply.stream_ended()
            return call

        return begin


def _remaining(timeout: float | None, started: float) -> float | None:
    """What is left of a call's timeout. At nothing left grpc ends the call at once, as its deadline demands."""
    return None if timeout is None else max(0.0, timeout - (time.monotonic() - started))
