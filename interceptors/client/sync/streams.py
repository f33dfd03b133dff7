"""A sync stream of responses that is made again with a fresh credential after a refusal."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Self

import grpc

from interceptors.client.renewal import HeldCredential
from interceptors.client.sync.retry import Phase, RetriedCall

__all__ = ["RetriedStream"]


class RetriedStream(RetriedCall):
    """A call with a stream of responses. Once it has returned a response, the first attempt is the outcome."""

    def __init__(
        self,
        first: Any,
        replace_credential: Callable[[], Future[HeldCredential] | None],
        make_second: Callable[[HeldCredential], Any],
        deadline: float | None,
    ) -> None:
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
            return next(attempt)
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
            return next(self._attempt)
        self._choose_first()
        return response

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
