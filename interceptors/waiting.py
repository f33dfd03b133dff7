"""Waiting in such a way that signals are noticed.

Python runs signal handlers in the main thread, between two of its steps. The kernel hands a signal to whichever thread
takes it first, the threads of gRPC's core included, and a main thread that waits for a lock does not hear of it: told
to end, it would go on waiting, and on Kubernetes be killed in the middle of its work when the grace period is over. So
whoever may be the main thread never waits long at once.
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

_AT_ONCE: Final = 0.2
"""Seconds that a signal may go unnoticed."""


def await_event(event: threading.Event, timeout: float | None = None) -> bool:
    """Waits until the event is set, at most `timeout` seconds; whether it is set."""
    return any(event.wait(seconds) for seconds in _slices(timeout))


def await_item(items: queue.SimpleQueue[T]) -> T:
    """Waits for the next item of a queue."""
    while True:
        try:
            return items.get(timeout=_AT_ONCE)
        except queue.Empty:
            continue


def await_result(future: Future[T], timeout: float | None = None) -> T:
    """Waits for what a future brings, and raises what it raises; TimeoutError after `timeout` seconds."""
    if not future.done():
        finished = threading.Event()
        future.add_done_callback(lambda _: finished.set())
        await_event(finished, timeout)
    return future.result(0)


def _slices(timeout: float | None) -> Iterator[float]:
    """Waits that make up one of `timeout` seconds. There is at least one."""
    if timeout is None:
        while True:
            yield _AT_ONCE
    deadline = time.monotonic() + timeout
    left = timeout
    while left > _AT_ONCE:
        yield _AT_ONCE
        left = deadline - time.monotonic()
    yield max(left, 0.0)
