"""A wait in the main thread is interrupted by a signal, whichever thread the kernel delivers it to."""

from __future__ import annotations

import queue
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from interceptors.waiting import await_event, await_item, await_result
from tests.support.repository import REPOSITORY
from tests.support.waiting import signal_another_thread

_PROGRAM = """
import queue, signal, sys, threading
from concurrent.futures import Future
from interceptors.waiting import await_event, await_item, await_result
signal.signal(signal.SIGINT, signal.default_int_handler)
threading.Thread(target=threading.Event().wait, daemon=True).start()
try:
    print("waits", flush=True)
    {wait}
except KeyboardInterrupt:
    sys.exit(7)
"""


@pytest.mark.parametrize(
    "wait",
    [
        "await_event(threading.Event())",
        "await_event(threading.Event(), 600)",
        "await_item(queue.SimpleQueue())",
        "await_result(Future())",
        "await_result(Future(), 600)",
    ],
)
def test_a_signal_ends_the_wait(wait: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _PROGRAM.format(wait=wait)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "waits\n"
            signal_another_thread(process.pid, signal.SIGINT)
            assert process.wait(20) == 7
        finally:
            process.kill()


def test_a_wait_returns_what_is_there_or_what_comes() -> None:
    event, items, future = threading.Event(), queue.SimpleQueue[int](), Future[int]()
    with ThreadPoolExecutor(3) as pool:
        is_set, item, result = (
            pool.submit(await_event, event),
            pool.submit(await_item, items),
            pool.submit(await_result, future),
        )
        event.set()
        items.put(1)
        future.set_result(2)
        assert (is_set.result(20), item.result(20), result.result(20)) == (True, 1, 2)
    assert await_event(event, 0)
    assert await_result(future, 0) == 2


@pytest.mark.parametrize("timeout", [0.0, 0.05, 0.45])
def test_a_wait_ends_at_its_timeout(timeout: float) -> None:
    begun = time.monotonic()
    assert not await_event(threading.Event(), timeout)
    with pytest.raises(TimeoutError):
        await_result(Future(), timeout)
    assert time.monotonic() - begun >= 2 * timeout


def test_await_result_raises_what_the_future_raises() -> None:
    failed: Future[int] = Future()
    failed.set_exception(TimeoutError("its own"))
    with pytest.raises(TimeoutError, match="its own"):
        await_result(failed, 10)
    failed = Future()
    threading.Timer(0.05, failed.set_exception, [ValueError("later")]).start()
    with pytest.raises(ValueError, match="later"):
        await_result(failed, 10)
