"""Scheduled calls are made in order of time, not early, and by one thread."""

from __future__ import annotations

import functools
import threading
import time

from interceptors.client.timer import call_at
from tests.support.waiting import wait_until


def test_calls_are_made_in_order_of_time_not_of_scheduling() -> None:
    called: list[tuple[int, float]] = []
    now = time.monotonic()
    for number in (2, 0, 3, 1):
        call_at(now + number / 20, lambda number=number: called.append((number, time.monotonic())))  # type: ignore[misc]
    wait_until(lambda: len(called) == 4)
    assert [number for number, _ in called] == [0, 1, 2, 3]
    assert all(at >= now + number / 20 for number, at in called)


def test_a_later_call_does_not_delay_an_earlier_one() -> None:
    called = threading.Event()
    call_at(time.monotonic() + 1, lambda: None)
    call_at(time.monotonic() + 0.01, called.set)
    assert called.wait(0.5)


def test_many_calls_share_one_thread_which_ends_after_them() -> None:
    called: list[int] = []
    for number in range(1000):
        call_at(time.monotonic() + 0.05, functools.partial(called.append, number))
    assert sum(thread.name == "credmesh-timer" for thread in threading.enumerate()) == 1
    wait_until(lambda: len(called) == 1000)
    wait_until(lambda: "credmesh-timer" not in {thread.name for thread in threading.enumerate()})
