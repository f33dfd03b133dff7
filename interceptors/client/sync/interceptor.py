"""Attaching credentials to the four kinds of sync calls."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NamedTuple, Protocol

import grpc

from interceptors.client.attachment import CallDetails, Metadata, details_with, own_metadata
from interceptors.client.failed_call import OUT_OF_TIME, FailedCall
from interceptors.client.renewal import HeldCredential, NoCredential
from interceptors.client.sync.retry import RetriedCall, is_renewable
from interceptors.client.sync.streams import RetriedStream
from interceptors.waiting import await_result

__all__ = ["AttachingInterceptor", "Supply", "wait_for"]

Continuation = Callable[[Any, Any], Any]


class Supply(Protocol):
    """Where the interceptor takes credentials from."""

    def current(self) -> HeldCredential | None:
        """What can be sent now, without waiting."""
        ...

    def obtain(self, stale: HeldCredential | None, *, refused: bool = False) -> Future[HeldCredential] | None:
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


def wait_for(supply: Supply, future: Future[HeldCredential] | None, timeout: float | None) -> HeldCredential:
    """Waits for a credential, at most `timeout` seconds. FailedCall if there is none."""
    if future is None:
        raise TypeError("a supply gives a future unless a refusal is to be followed")
    try:
        held = await_result(future, timeout)
    except NoCredential as unobtained:
        raise FailedCall(unobtained.failure) from None
    except TimeoutError:
        raise FailedCall(OUT_OF_TIME) from None
    supply.used()
    return held


class _Begun(NamedTuple):
    """A call that is about to be made: its details as its maker gave them, and as they are sent with a credential."""

    details: Any
    own: Metadata
    started: float
    held: HeldCredential
    attached: CallDetails


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
        try:
            begun = self._begin(client_call_details)
        except FailedCall as failed:
            return failed
        call = continuation(begun.attached, request)
        if call.done() and (call.cancelled() or call.exception() is None or not is_renewable(call)):
            return call
        # It was refused, or its caller asked for a future: then it is not known yet, and nobody may be waiting here.
        return RetriedCall(call, *self._retry(begun, continuation, request))

    def intercept_unary_stream(self, continuation: Continuation, client_call_details: Any, request: Any) -> Any:
        """See grpc.UnaryStreamClientInterceptor."""
        try:
            begun = self._begin(client_call_details)
        except FailedCall as failed:
            return failed
        counted = self._counted(continuation)
        return RetriedStream(counted(begun.attached, request), *self._retry(begun, counted, request))

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
            begun = self._begin(details)
        except FailedCall as failed:
            return failed
        return self._counted(continuation)(begun.attached, requests)

    def _begin(self, details: Any) -> _Begun:
        started = time.monotonic()
        own = own_metadata(details.metadata)
        timeout: float | None = details.timeout
        held = self._supply.current()
        if held is None:
            held = wait_for(self._supply, self._supply.obtain(None), timeout)
            timeout = _remaining(timeout, started)
        return _Begun(details, own, started, held, details_with(details, own, held.metadata, timeout))

    def _retry(
        self, begun: _Begun, continuation: Continuation, request: Any
    ) -> tuple[Callable[[], Future[HeldCredential] | None], Callable[[HeldCredential], Any], float | None]:
        """How a call under way asks for a fresh credential, how it is made again with it, and until when."""

        def again(fresh: HeldCredential) -> Any:
            self._supply.used()
            remaining = _remaining(begun.details.timeout, begun.started)
            return continuation(details_with(begun.details, begun.own, fresh.metadata, remaining), request)

        timeout: float | None = begun.details.timeout
        deadline = None if timeout is None else begun.started + timeout
        return functools.partial(self._supply.obtain, begun.held, refused=True), again, deadline

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
