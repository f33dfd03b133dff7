"""Waiting that signals can interrupt.

Python runs signal handlers in the main thread, between two of its instructions. But the kernel delivers a signal to any
thread, including the threads of gRPC's core. A main thread that waits for a lock then does not run the handler: after
SIGTERM it would go on waiting, and Kubernetes would kill it in the middle of its work when the grace period is over. So
code that may run in the main thread waits in short slices.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Final, TypeVar

__all__ = ["await_event", "await_item", "await_result"]

T = TypeVar("T")

_MAX_SIGNAL_DELAY_SECONDS: Final = 0.2


def await_event(event: threading.Event, timeout: float | None = None) -> bool:
    """Waits until the event is set, at most `timeout` seconds. Returns whether it is set."""
    return any(event.wait(seconds) for seconds in _slices(timeout))


def await_item(items: queue.SimpleQueue[T]) -> T:
    """Waits for the next item of a queue, and returns it."""
    while True:
        try:
            return items.get(timeout=_MAX_SIGNAL_DELAY_SECONDS)
        except queue.Empty:
            continue


def await_result(future: Future[T], timeout: float | None = None) -> T:
    """Waits for a future. Returns its result or raises its exception; TimeoutError after `timeout` seconds."""
    if not future.done():
        finished = threading.Event()
        future.add_done_callback(lambda _: finished.set())
        await_event(finished, timeout)
    return future.result(0)


def _slices(timeout: float | None) -> Iterator[float]:
    """Yields the lengths of the slices of a wait of `timeout` seconds: at least one."""
    if timeout is None:
        while True:
            yield _MAX_SIGNAL_DELAY_SECONDS
    deadline = time.monotonic() + timeout
    left = timeout
    while left > _MAX_SIGNAL_DELAY_SECONDS:
        yield _MAX_SIGNAL_DELAY_SECONDS
        left = deadline - time.monotonic()
    yield max(left, 0.0)
