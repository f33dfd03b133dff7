"""Alarms ring in their order, at their moment, in any number."""

from __future__ import annotations

import functools
import threading
import time

from interceptors.client.timer import alarm
from tests.support.waiting import wait_until


def test_alarms_ring_in_the_order_of_their_moments_whatever_the_order_they_were_set_in() -> None:
    rung: list[tuple[int, float]] = []
    now = time.monotonic()
    for number in (2, 0, 3, 1):
        alarm(now + number / 20, lambda number=number: rung.append((number, time.monotonic())))  # type: ignore[misc]
    wait_until(lambda: len(rung) == 4)
    assert [number for number, _ in rung] == [0, 1, 2, 3]
    assert all(at >= now + number / 20 for number, at in rung)


def test_an_earlier_alarm_is_not_kept_waiting_by_a_later_one() -> None:
    rung = threading.Event()
    alarm(time.monotonic() + 1, lambda: None)
    alarm(time.monotonic() + 0.01, rung.set)
    assert rung.wait(0.5)


def test_many_alarms_share_one_thread_which_ends_with_them() -> None:
    rung: list[int] = []
    for number in range(1000):
        alarm(time.monotonic() + 0.05, functools.partial(rung.append, number))
    assert sum(thread.name == "credmesh-alarm" for thread in threading.enumerate()) == 1
    wait_until(lambda: len(rung) == 1000)
    wait_until(lambda: "credmesh-alarm" not in {thread.name for thread in threading.enumerate()})
