"""Calls functions at given times, from one thread for the whole process. The thread ends when no call is due."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable
from typing import Final

from interceptors.client.forks import register_for_forks

__all__ = ["call_at"]


class _TimerThread:
    """A heap of scheduled calls, and the thread that waits for the next one."""

    def __init__(self) -> None:
        register_for_forks(self)
        self.reset_after_fork()

    def reset_after_fork(self) -> None:
        """See Forkable: the parent's thread makes the calls that the parent scheduled."""
        self._condition = threading.Condition()
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = itertools.count()  # orders calls of the same time, since functions cannot be compared
        self._running = False

    def schedule(self, at: float, callback: Callable[[], None]) -> None:
        with self._condition:
            heapq.heappush(self._heap, (at, next(self._sequence), callback))
            if not self._running:
                threading.Thread(target=self._run, name="credmesh-timer", daemon=True).start()
                self._running = True
            elif self._heap[0][0] == at:
                self._condition.notify()

    def _run(self) -> None:
        while True:
            with self._condition:
                while self._heap and (wait := self._heap[0][0] - time.monotonic()) > 0:
                    self._condition.wait(wait)
                if not self._heap:
                    self._running = False
                    return
                callback = heapq.heappop(self._heap)[2]
            callback()


_timer: Final = _TimerThread()


def call_at(at: float, callback: Callable[[], None]) -> None:
    """Has `callback` called in the timer's thread, at a time in monotonic seconds or soon after.

    A scheduled call cannot be cancelled: the callback checks whether it is still needed. It must neither block nor
    raise. RuntimeError if the thread cannot be started.
    """
    _timer.schedule(at, callback)
