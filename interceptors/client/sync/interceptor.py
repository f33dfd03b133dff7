"""Attaches credentials to sync calls of the four kinds."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import grpc

from interceptors.client.attachment import caller_metadata, details_with
from interceptors.client.failed_call import TIMED_OUT, FailedCall
from interceptors.client.renewal import HeldCredential, NoCredential
from interceptors.client.retry_rules import is_renewable, remaining_seconds
from interceptors.client.supply import Supply
from interceptors.client.sync.retry import RetriedCall
from interceptors.client.sync.streams import RetriedStream
from interceptors.waiting import await_result

__all__ = ["AttachingInterceptor", "wait_for_credential"]

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
            held = wait_for_credential(self._supply, self._supply.obtain(), timeout)
            timeout = remaining_seconds(timeout, self._started)
        self._held = held
        return self._make(held, timeout)

    def replace_credential(self) -> Future[HeldCredential] | None:
        """Requests a credential for the second attempt; None if there is to be none."""
        return self._supply.replace(self._held)

    def second(self, fresh: HeldCredential) -> Any:
        """Makes the second attempt, in the time that is left."""
        self._supply.mark_used()
        return self._make(fresh, remaining_seconds(self._details.timeout, self._started))

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
    of them. A call waits for a credential only if none can be sent now, and never longer than its own timeout.
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
        if call.done() and (
            call.cancelled() or call.exception() is None or not is_renewable(call.code(), call.trailing_metadata())
        ):
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
        return RetriedStream(call, attempts.replace_credential, attempts.second, attempts.deadline())

    def intercept_stream_unary(
        self, continuation: Continuation, client_call_details: Any, request_iterator: Any
    ) -> Any:
        """See grpc.StreamUnaryClientInterceptor."""
        return self._attempt_once(continuation, client_call_details, request_iterator)

    def intercept_stream_stream(
        self, continuation: Continuation, client_call_details: Any, request_iterator: Any
    ) -> Any:
        """See grpc.StreamStreamClientInterceptor."""
        return self._attempt_once(continuation, client_call_details, request_iterator)

    def _attempt_once(self, continuation: Continuation, details: Any, requests: Any) -> Any:
        attempts = _Attempts(self.supply, self._counted(continuation), details, requests)
        try:
            return attempts.first()
        except FailedCall as failed:
            return failed

    def _counted(self, continuation: Continuation) -> Continuation:
        """Returns a continuation whose calls count as open streams, which keep the session alive."""

        def begin(details: Any, request: Any) -> Any:
            self.supply.stream_began()
            try:
                call = continuation(details, request)
            except BaseException:
                self.supply.stream_ended()
                raise
            # `done` comes first: a blocking call that failed has no `add_callback`.
            if call.done() or not call.add_callback(self.supply.stream_ended):
                self.supply.stream_ended()
            return call

        return begin
