"""Doing something at a moment to come: one thread for all of a process's alarms, while there are any."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable
from typing import Final

from interceptors.client.forks import tell_of_forks

__all__ = ["alarm"]


class _Alarms:
    """A heap of moments, and the thread that waits for the next of them."""

    def __init__(self) -> None:
        tell_of_forks(self)
        self.forked()

    def forked(self) -> None:
        """See Forkable: what the parent set is for its own thread to do."""
        self._wake = threading.Condition()
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._running = False

    def set(self, at: float, ring: Callable[[], None]) -> None:
        with self._wake:
            heapq.heappush(self._heap, (at, next(self._order), ring))
            if not self._running:
                threading.Thread(target=self._run, name="credmesh-alarm", daemon=True).start()
                self._running = True
            elif self._heap[0][0] == at:
                self._wake.notify()

    def _run(self) -> None:
        while True:
            with self._wake:
                while self._heap and (wait := self._heap[0][0] - time.monotonic()) > 0:
                    self._wake.wait(wait)
                if not self._heap:
                    self._running = False
                    return
                ring = heapq.heappop(self._heap)[2]
            ring()


_alarms: Final = _Alarms()


def alarm(at: float, ring: Callable[[], None]) -> None:
    """Has `ring` called in a thread of its own at a moment of the monotonic clock, or soon after. It must not raise.

    There is no taking back: `ring` looks whether it is still wanted.
    """
    _alarms.set(at, ring)
