"""A sync stream of answers that is begun once more when its credential was refused."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Self

import grpc

from interceptors.client.renewal import HeldCredential
from interceptors.client.sync.retry import Phase, RetriedCall

__all__ = ["RetriedStream"]


class RetriedStream(RetriedCall):
    """A call with a stream of answers. Once an answer was received the first attempt counts, whatever follows."""

    def __init__(
        self,
        first: Any,
        renew: Callable[[], Future[HeldCredential] | None],
        again: Callable[[HeldCredential], Any],
        deadline: float | None,
    ) -> None:
        self._readers = 0  # who wait for the first answer: only they know whether there was one, so they decide
        self._first_over = False
        super().__init__(first, renew, again, deadline)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        with self._lock:
            first = self._call
            decided = self._phase is Phase.DECIDED
            self._readers += not decided
        if decided:
            return next(first)
        try:
            message = next(first)
        except (StopIteration, grpc.RpcError):
            with self._lock:
                self._readers -= 1
                deciding = self._first_over and self._readers == 0
            if deciding:
                self._decide()
            if self._ended() is first:
                raise
            return next(self._call)
        self._received()
        return message

    def _received(self) -> None:
        with self._lock:
            self._readers -= 1
            self._phase = Phase.DECIDED
            self._decided.set()
            over = self._first_over
        if over:
            self._finish()

    def _first_ended(self) -> None:
        with self._lock:
            self._first_over = True
            if self._readers and not self._decided.is_set():
                return
        super()._first_ended()
