"""Attaches credentials to sync calls of the four kinds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import grpc

from interceptors.backoff import Backoff
from interceptors.client.attachment import caller_metadata, details_with
from interceptors.client.failed_call import TIMED_OUT, FailedCall
from interceptors.client.renewal import HeldCredential, NoCredential
from interceptors.client.retry_rules import is_renewable, remaining_seconds
from interceptors.client.supply import FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS, Supply
from interceptors.client.sync.retry import RetriedCall
from interceptors.client.sync.streams import RetriedStream, WrappedStream, is_call
from interceptors.waiting import await_event, await_result

__all__ = ["AttachingInterceptor", "obtain_credential", "wait_for_credential"]

Continuation = Callable[[Any, Any], Any]


def wait_for_credential(supply: Supply, future: Future[HeldCredential], timeout: float | None) -> HeldCredential:
    """Waits for the outcome of a renewal, at most `timeout` seconds. FailedCall if there is no credential by then."""
    try:
        held = await_result(future, timeout)
    except NoCredential as error:
        raise FailedCall(error.failure) from None
    except TimeoutError:
        raise FailedCall(TIMED_OUT) from None
    supply.mark_used()
    return held


def obtain_credential(supply: Supply, timeout: float | None, *, wait_for_ready: bool | None = None) -> HeldCredential:
    """Waits for a credential where `current` returned None. FailedCall if there is none.

    wait_for_ready: whether to wait for an auth service that cannot be reached, as gRPC does for the call's own server.
    """
    started = time.monotonic()
    backoff = Backoff(FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS)
    while True:
        try:
            return wait_for_credential(supply, supply.obtain(), remaining_seconds(timeout, started))
        except FailedCall as failed:
            if not wait_for_ready or not failed.unreachable:
                raise
        pause = backoff.next_delay()
        remaining = remaining_seconds(timeout, started)
        await_event(threading.Event(), pause if remaining is None else min(pause, remaining))


class _Attempts:
    """The attempts at one call. Raises ValueError if the caller's metadata holds a credential."""

    __slots__ = ("_continuation", "_details", "_held", "_metadata", "_request", "_started", "_supply")

    _held: HeldCredential

    def __init__(self, supply: Supply, continuation: Continuation, details: Any, request: Any) -> None:
        self._started = time.monotonic()
        self._supply = supply
        self._continuation = continuation
        self._details = details
        self._metadata = caller_metadata(details.metadata)
        self._request = request

    def first(self) -> Any:
        """Makes the first attempt, once there is a credential. FailedCall if there is none."""
        timeout: float | None = self._details.timeout
        held = self._supply.current()
        if held is None:
            held = obtain_credential(self._supply, timeout, wait_for_ready=self._details.wait_for_ready)
            timeout = remaining_seconds(timeout, self._started)
        self._held = held
        return self._make(held, timeout)

    def replace_credential(self) -> Future[HeldCredential] | None:
        """Requests a credential for the second attempt; None if there is to be none."""
        return self._supply.replace(self._held)

    def give_up_credential(self) -> None:
        """In place of `replace_credential`, for a call that is not repeated: the next call takes a new credential."""
        self._supply.mark_refused(self._held)

    def second(self, fresh: HeldCredential) -> Any:
        """Makes the second attempt, in the time that is left."""
        self._held = fresh
        self._supply.mark_used()
        return self._make(fresh, remaining_seconds(self._details.timeout, self._started))

    def wrapped_stream(self, first: Any, *, retries: bool) -> WrappedStream:
        """Returns the stream for what another interceptor made of the first attempt."""

        def replace_credential() -> HeldCredential | None:
            future = self.replace_credential()
            if future is None:
                return None
            remaining = remaining_seconds(self._details.timeout, self._started)
            return wait_for_credential(self._supply, future, remaining)

        replace = replace_credential if retries else lambda: None
        return WrappedStream(first, self._supply, replace, self.second, self.give_up_credential)

    def deadline(self) -> float | None:
        """Returns when the call's time ends, in monotonic seconds; None if it has no timeout."""
        timeout: float | None = self._details.timeout
        return None if timeout is None else self._started + timeout

    def _make(self, held: HeldCredential, timeout: float | None) -> Any:
        return self._continuation(details_with(self._details, self._metadata + held.metadata, timeout), self._request)


class AttachingInterceptor(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Attaches a credential to each call, and repeats a call that was refused for a renewable reason, once.

    A call with a stream of requests is never repeated: its requests may be gone, and the server may have acted on some
    of them. If it is refused, the next call takes a new credential. A call waits for a credential only if none can be
    sent now, and never longer than its own timeout.
    """

    def __init__(self, supply: Supply) -> None:
        self.supply = supply

    def intercept_unary_unary(self, continuation: Continuation, client_call_details: Any, request: Any) -> Any:
        """See grpc.UnaryUnaryClientInterceptor."""
        attempts = _Attempts(self.supply, continuation, client_call_details, request)
        try:
            call = attempts.first()
        except FailedCall as failed:
            return failed
        if call.done() and not _was_refused(call):
            return call
        # The call was refused, or its caller asked for a future: then its outcome is not known yet.
        return RetriedCall(call, attempts.replace_credential, attempts.second, attempts.deadline())

    def intercept_unary_stream(self, continuation: Continuation, client_call_details: Any, request: Any) -> Any:
        """See grpc.UnaryStreamClientInterceptor."""
        attempts = _Attempts(self.supply, self._counted(continuation), client_call_details, request)
        try:
            call = attempts.first()
        except FailedCall as failed:
            return failed
        if not is_call(call):
            return attempts.wrapped_stream(call, retries=True)
        return RetriedStream(
            call, attempts.replace_credential, attempts.second, attempts.deadline(), attempts.give_up_credential
        )

    def intercept_stream_unary(
        self, continuation: Continuation, client_call_details: Any, request_iterator: Any
    ) -> Any:
        """See grpc.StreamUnaryClientInterceptor."""
        attempts = _Attempts(self.supply, self._counted(continuation), client_call_details, request_iterator)
        try:
            call = attempts.first()
        except FailedCall as failed:
            return failed
        if not is_call(call) or (call.done() and not _was_refused(call)):
            return call
        return RetriedCall(call, attempts.give_up_credential, attempts.second, attempts.deadline())

    def intercept_stream_stream(
        self, continuation: Continuation, client_call_details: Any, request_iterator: Any
    ) -> Any:
        """See grpc.StreamStreamClientInterceptor."""
        attempts = _Attempts(self.supply, self._counted(continuation), client_call_details, request_iterator)
        try:
            call = attempts.first()
        except FailedCall as failed:
            return failed
        if not is_call(call):
            return attempts.wrapped_stream(call, retries=False)
        give_up = attempts.give_up_credential
        return RetriedStream(call, give_up, attempts.second, attempts.deadline(), give_up)

    def _counted(self, continuation: Continuation) -> Continuation:
        """Returns a continuation whose calls count as open streams, which keep the session alive."""

        def begin(details: Any, request: Any) -> Any:
            self.supply.stream_began()
            try:
                call = continuation(details, request)
            except BaseException:
                self.supply.stream_ended()
                raise
            # `done` comes before `add_callback`: a blocking call that failed has none. WrappedStream counts itself.
            if not is_call(call) or call.done() or not call.add_callback(self.supply.stream_ended):
                self.supply.stream_ended()
            return call

        return begin


def _was_refused(call: Any) -> bool:
    """Whether a call that has ended was refused for a renewable reason."""
    return not (call.cancelled() or call.exception() is None) and is_renewable(call.code(), call.trailing_metadata())
