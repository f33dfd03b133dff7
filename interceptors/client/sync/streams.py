"""Sync streams of responses that are made again with a fresh credential after a refusal."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, Self

import grpc

from interceptors.client.renewal import HeldCredential
from interceptors.client.retry_rules import is_renewable
from interceptors.client.supply import Supply
from interceptors.client.sync.retry import Phase, RetriedCall

__all__ = ["RetriedStream", "WrappedStream", "is_call"]


class RetriedStream(RetriedCall):
    """A call with a stream of responses. Once it has returned a response, the first attempt is the outcome.

    give_up_credential  called when the outcome was refused: a server may end a stream after its first response
    """

    def __init__(
        self,
        first: Any,
        replace_credential: Callable[[], Future[HeldCredential] | None],
        make_second: Callable[[HeldCredential], Any],
        deadline: float | None,
        give_up_credential: Callable[[], None],
    ) -> None:
        self._give_up_credential = give_up_credential
        # Threads that wait for the first response. gRPC may report the end before the thread has received the last
        # response, so while there are readers only they decide on a second attempt.
        self._readers = 0
        self._first_has_ended = False
        super().__init__(first, replace_credential, make_second, deadline)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        with self._lock:
            attempt = self._attempt
            chosen = self._phase is Phase.CHOSEN
            self._readers += not chosen
        if chosen:
            return self._next_of(attempt)
        try:
            response = next(attempt)
        except (StopIteration, grpc.RpcError):
            with self._lock:
                self._readers -= 1
                last_reader = self._first_has_ended and self._readers == 0
            if last_reader:
                self._retry_or_choose_first()
            if self._await_choice() is attempt:
                raise
            return self._next_of(self._attempt)
        self._choose_first()
        return response

    def _next_of(self, attempt: Any) -> Any:
        """Returns the next response of the outcome."""
        try:
            return next(attempt)
        except grpc.RpcError:
            # Before the caller learns of the end, and may make its next call. gRPC's callback may come later.
            self._outcome_ended()
            raise

    def _outcome_ended(self) -> None:
        attempt = self._attempt
        if is_renewable(attempt.code(), attempt.trailing_metadata()):
            self._give_up_credential()

    def _run_callbacks(self) -> None:
        self._outcome_ended()
        super()._run_callbacks()

    def _choose_first(self) -> None:
        """Runs when the first attempt has returned a response."""
        with self._lock:
            self._readers -= 1
            self._phase = Phase.CHOSEN
            self._chosen.set()
            ended = self._first_has_ended
        if ended:
            self._run_callbacks()

    def _first_ended(self) -> None:
        with self._lock:
            self._first_has_ended = True
            if self._readers and not self._chosen.is_set():
                return
        super()._first_ended()


def is_call(made: Any) -> bool:
    """Whether an interceptor returned a call, as gRPC requires, and not only what its caller reads."""
    return isinstance(made, grpc.Call) and isinstance(made, grpc.Future)


class WrappedStream:
    """A stream of responses that another library's interceptor has wrapped: an iterator, but no call.

    OpenTelemetry's interceptor returns a generator, which starts the call when its first response is read. It cannot be
    asked whether it is done, so the thread that reads it does all the work. The stream counts as open while it is read.

    first               what the other interceptor returned
    replace_credential  waits for a fresh credential; returns None if there is to be no second attempt
    make_second         makes the second attempt
    give_up_credential  called when the outcome was refused

    All other attributes are those of the wrapped object.
    """

    def __init__(
        self,
        first: Any,
        supply: Supply,
        replace_credential: Callable[[], HeldCredential | None],
        make_second: Callable[[HeldCredential], Any],
        give_up_credential: Callable[[], None],
    ) -> None:
        self._lock = threading.Lock()
        self._counted = False
        self._supply = supply
        self._replace_credential = replace_credential
        self._make_second = make_second
        self._give_up_credential = give_up_credential
        self._may_retry = True
        self._attempt = first
        self._responses: Iterator[Any] = iter(first)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        self._count()
        try:
            response = self._next_response()
        except BaseException:
            self._uncount()
            raise
        self._may_retry = False
        return response

    def __getattr__(self, name: str) -> Any:
        return getattr(self._attempt, name)

    def close(self) -> None:
        """Ends the iteration, as a generator's `close` does."""
        close = getattr(self._attempt, "close", None)
        if close is not None:
            close()
        self._uncount()

    def __del__(self) -> None:
        self._uncount()

    def _next_response(self) -> Any:
        try:
            return next(self._responses)
        except grpc.RpcError as error:
            if not _was_refused(error):
                raise
            fresh = self._replace_credential() if self._may_retry else None
            if fresh is None:
                self._give_up_credential()
                raise
        self._may_retry = False
        self._attempt = self._make_second(fresh)
        self._responses = iter(self._attempt)
        return self._next_response()

    def _count(self) -> None:
        with self._lock:
            began = not self._counted
            self._counted = True
        if began:
            self._supply.stream_began()

    def _uncount(self) -> None:
        with self._lock:
            ended = self._counted
            self._counted = False
        if ended:
            self._supply.stream_ended()


def _was_refused(error: grpc.RpcError) -> bool:
    """Whether a call was refused for a renewable reason. An error that a library raised may have no status."""
    return isinstance(error, grpc.Call) and is_renewable(error.code(), error.trailing_metadata())
